from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled networks of tests go where the tests go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8 labelled photos of 64 x 64; not to be changed."""
    from tests.tiny import write_photos

    return write_photos(tmp_path_factory.mktemp("data") / "photos", 8)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A finished run of two epochs on `photos`, as the command line leaves it; not to be changed."""
    from tests.tiny import BACKBONE, QUICK
    from upscore.training.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    changes = {**QUICK, "learning_rate": 5e-3}
    train(photos, folder, backbone=BACKBONE, weights="none", changes=changes, epochs=2, workers=0)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a network that knows two scenes by heart: far apart scores, maps of many classes."""
    import torch

    from tests.tiny import scenes, tiny_net
    from upscore.checkpoints import save_model

    net = tiny_net()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    samples = [scenes()[index] for index in range(2)]
    images = net.preprocessing(torch.stack([sample.image for sample in samples]))
    targets = torch.stack([sample.class_map for sample in samples if sample.class_map is not None])
    for _ in range(40):
        loss = net.losses(net(images), targets)["cross_entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    folder = tmp_path_factory.mktemp("models") / "trained"
    save_model(folder, net, classes=scenes().classes)
    return folder
