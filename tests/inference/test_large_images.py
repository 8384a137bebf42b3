"""Automatic tiling of images that are too large, or that have too many objects, and its warnings."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import upscore
from tests.inference.tiled.test_plan import network, random_image
from tests.tiny import BACKBONE, tiny_net
from upscore.checkpoints import save_model
from upscore.errors import UserError
from upscore.inference import Model
from upscore.inference.tiled import in_memory
from upscore.inference.tiled.in_memory import LargeImageWarning, ObjectLimitWarning, ReducedImageWarning
from upscore.models import build
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

MB = 10**6


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that 80 MB are free, which suffice for one tile."""
    monkeypatch.setattr(in_memory, "free_memory", lambda: 80 * MB)


@pytest.mark.parametrize("backbone", ["vgg16-same", BACKBONE])
def test_class_maps_of_tiles_equal_that_of_the_whole_image(backbone: str, little_memory: None) -> None:
    net, image = network(backbone), random_image(900, 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_memory, "free_memory", lambda: 10**12)
        whole = Model(net, "torch", "float32").predict(image, scores=True)
    with pytest.warns(LargeImageWarning, match=r"1000x900.* 80 MB .* \d+ tiles"):
        tiled = Model(net, "torch", "float32").predict(image, scores=True)
    assert np.array_equal(tiled.class_map, whole.class_map)
    assert np.allclose(tiled.scores.astype(np.float32), whole.scores.astype(np.float32), atol=2e-3)
    assert len(np.unique(whole.class_map)) > 2


def test_tiles_of_a_reduced_image(little_memory: None) -> None:
    net, image = network(BACKBONE), random_image(1000, 1200)
    with pytest.warns(LargeImageWarning):
        tiled = Model(net, "torch", "float32", max_side=1000).predict(image).class_map
    assert tiled.shape == (1000, 1200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_memory, "free_memory", lambda: 10**12)
        whole = Model(net, "torch", "float32", max_side=1000).predict(image).class_map
    assert (tiled == whole).mean() > 0.9  # nearest pixel instead of interpolated scores


def test_tiles_with_depth_and_two_heads(little_memory: None) -> None:
    torch.manual_seed(0)
    net = build("fcn32s", backbone=BACKBONE, num_classes=4, geometric_classes=3, depth="late", depth_channels=1)
    for head in (net, net.geometric):
        torch.nn.init.normal_(head.score["32"].weight)
    image, depth = random_image(800, 900), np.random.default_rng(0).uniform(1, 9, (800, 900)).astype(np.float32)
    with pytest.warns(LargeImageWarning):
        tiled = Model(net, "torch", "float32").predict(image, depth=depth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_memory, "free_memory", lambda: 10**12)
        whole = Model(net, "torch", "float32").predict(image, depth=depth)
    assert np.array_equal(tiled.class_map, whole.class_map)
    assert np.array_equal(tiled.geometric.class_map, whole.geometric.class_map)


def test_tiles_of_a_network_with_unlimited_receptive_field_are_an_error(little_memory: None) -> None:
    net = build("fcn32s", backbone="timm/test_efficientnet", num_classes=3)  # squeeze-and-excitation
    with pytest.raises(UserError, match="whole image"):
        Model(net, "torch", "float32").predict(random_image(800, 900))


def test_the_memory_is_not_measured_for_small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "free_memory", lambda: pytest.fail("free_memory was called"))
    Model(tiny_net(), "torch", "float32").predict(random_image(200, 300))


def test_a_strong_reduction_is_reported_once_per_model() -> None:
    model = Model(tiny_net(), "torch", "float32", max_side=64)
    with pytest.warns(ReducedImageWarning, match=r"300x200.*4\.7.*64x43"):
        model.predict(random_image(200, 300))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(random_image(200, 300))
        Model(tiny_net(), "torch", "float32", max_side=64).predict(random_image(200, 250))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_prediction_under_a_limit_of_the_address_space(tmp_path: Path, engine: str) -> None:
    """The whole image would need 1.2 GB in the network, and only 700 MB may be allocated."""
    save_model(tmp_path / "model", network(BACKBONE), classes=list("abcde"), max_side=0)
    Image.fromarray(random_image(2600, 3000).permute(1, 2, 0).numpy()).save(tmp_path / "a.png", compress_level=1)
    script = (
        "import resource, sys, torch, warnings, upscore\n"
        "torch.set_num_threads(1)\n"
        "warnings.simplefilter('always')\n"
        f"model = upscore.load(sys.argv[1] + '/model', engine={engine!r}, precision='float32')\n"
        "model.predict(torch.zeros(3, 64, 64, dtype=torch.uint8))\n"
        "from pathlib import Path\n"
        "size = int(Path('/proc/self/status').read_text().split('VmSize:')[1].split()[0]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]), resource.RLIM_INFINITY))\n"
        "try:\n"
        "    print(model.predict(sys.argv[1] + '/a.png').class_map.shape)\n"
        "except upscore.errors.UserError as error:\n"
        "    print('UserError', error)\n"
    )
    run = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run([*run, f"{700 * MB}"], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "(2600, 3000)", done.stderr
    assert "LargeImageWarning" in done.stderr


def saturated_detector(limit: int) -> MaskRCNN:
    """Return a network that detects objects everywhere, up to its limit."""
    torch.manual_seed(0)
    net = build("mask_rcnn", backbone=BACKBONE, num_classes=1, min_side=64, max_side=128, max_detections=limit)
    with torch.no_grad():
        net.box_predictor.classes.bias.copy_(torch.tensor([9.0, 0.0]))
    net.mask_nms = False
    return net


@pytest.mark.parametrize(("size", "tiled"), [((64, 96), False), ((150, 240), True)])
def test_reaching_the_limit_is_reported(size: tuple[int, int], tiled: bool) -> None:
    model = Model(saturated_detector(5), "torch", "float32")
    with pytest.warns() as recorded:
        result = model.predict(random_image(*size))
    categories = [warning.category for warning in recorded]
    assert ObjectLimitWarning in categories
    assert (LargeImageWarning in categories) == tiled
    assert (len(result) > 5) == tiled
    assert any(re.search(r"\b5\b.*objects", str(warning.message)) for warning in recorded)
    assert result.size == size
    assert result.image is not None


def test_no_warning_below_the_limit() -> None:
    model = Model(saturated_detector(5), "torch", "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(random_image(64, 96), score_threshold=0)  # a ranking, which usually reaches the limit
        model.predict(random_image(64, 96), score_threshold=1)


def test_an_image_that_would_be_much_reduced_is_tiled() -> None:
    net = build("mask_rcnn", backbone=BACKBONE, num_classes=1, min_side=64, max_side=128)
    assert not net.resizing.shrink
    with pytest.warns(LargeImageWarning, match=r"300x200.*128x85.*tiles"):
        Model(net, "torch", "float32").predict(random_image(200, 300), score_threshold=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model(net, "torch", "float32").predict(random_image(200, 250), score_threshold=1)
    net.resizing = replace(net.resizing, shrink=True)
    with pytest.warns(ReducedImageWarning, match="600x400"):
        Model(net, "torch", "float32").predict(random_image(400, 600), score_threshold=1)


@pytest.mark.slow
def test_1200_nuclei_with_a_limit_of_600() -> None:
    """An image of 1,200 discs; the limit of the network is 600."""
    yy, xx = np.mgrid[:32, :32]
    disc = (np.hypot(xx - 16, yy - 16) < 9).astype(np.uint8) * 170
    image = np.dstack([np.tile(disc, (30, 40))] * 3)
    with pytest.warns(LargeImageWarning, match="600"):
        found = upscore.load("nuclei").predict(image)
    assert len(found) == pytest.approx(1200, rel=0.03)
