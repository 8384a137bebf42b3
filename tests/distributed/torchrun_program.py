"""Training runs that `test_torchrun` starts in several processes and compares with runs of one process.

The argument is the folder of the runs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import RECIPES, scenes, tiny_net
from tests.training.test_instances import SMALL, Shapes, tiny_rcnn
from upscore.data.datasets import Dataset
from upscore.data.samples import Sample
from upscore.data.synthetic import SceneDataset
from upscore.training.callbacks import Callback
from upscore.training.loop import fit
from upscore.training.recipes import Recipe
from upscore.training.run_folder import RunFolder
from upscore.training.tasks import Network

IMAGES = 7
"""Number of training images: in the last batch, two processes have 2 and 1 of 2 images each, and 1 and 0 of 3 each."""


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"images": 2 * IMAGES, "frozen_norm": True, **changes})


def class_weighted() -> Network:
    net = tiny_net()
    net.class_weights = torch.linspace(0.2, 3, 8)
    return net


def rcnn_with_statistics() -> Network:
    """A Mask R-CNN whose batch normalisation has statistics, as if loaded, so that the recipe keeps it frozen.

    With trained normalisation, rounding changes which proposals are sampled, and the losses differ by 5e-4.
    """
    net = tiny_rcnn()
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_(std=0.1)
    return net


RUNS: dict[str, tuple[Callable[[], Network], Recipe]] = {
    "averaged": (tiny_net, changed(RECIPES["modern"], batch_size=2, clip_norm=0.1)),
    "accumulated": (tiny_net, changed(RECIPES["accum"], batch_size=1, accumulate=2)),
    "summed": (tiny_net, changed(RECIPES["heavy"], batch_size=3)),
    "weighed": (class_weighted, changed(RECIPES["modern"], batch_size=2)),
    "normalised": (tiny_net, changed(RECIPES["modern"], batch_size=3, frozen_norm=False)),
    "sizes": (tiny_net, changed(RECIPES["accum"], batch_size=2, accumulate=1, frozen_norm=False)),
    "objects": (rcnn_with_statistics, changed(SMALL, batch_size=2, clip_norm=5.0)),
}
"""Networks and recipes by name; the batch size is that of each of two processes."""


class MixedSizes(SceneDataset):
    """Scenes, every second of which is smaller."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        super().__init__(count, seed=seed, size=(64, 64))

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        assert sample.class_map is not None
        if index % 2:
            sample.image, sample.class_map = sample.image[:, :40, :56], sample.class_map[:40, :56]
        return sample


DATASETS: dict[str, Callable[..., Dataset]] = {"objects": Shapes, "sizes": MixedSizes}


class LossRecorder(Callback):
    """Callback that writes the loss of each step to a file and interrupts the process after step `stop`."""

    def __init__(self, path: Path, stop: int) -> None:
        self.path, self.stop = path, stop

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"done": step, "total": total_steps, "loss": loss}) + "\n")
        if step == self.stop:
            os.kill(os.getpid(), signal.SIGINT)


def trained(name: str, folder: Path, *, times: int = 1, resume: bool = False, stop: int = 0) -> None:
    """Train a run of `RUNS` with `times` its batch size, interrupted after step `stop` if it is not 0."""
    make, recipe = RUNS[name]
    recipe = recipe.model_copy(update={"batch_size": recipe.batch_size * times})
    dataset = DATASETS.get(name, scenes)
    folder.mkdir(parents=True, exist_ok=True)
    recorder = LossRecorder(folder / "losses.jsonl", stop)
    options: dict[str, Any] = {"max_side": 0, "resume": resume, "callbacks": [recorder]}
    with pytest.raises(KeyboardInterrupt) if stop else nullcontext():
        fit(make(), dataset(IMAGES), dataset(3, seed=1), recipe, RunFolder(folder), **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    for name in RUNS:
        trained(name, root / name)
    trained("averaged", root / "from two", stop=1)
    trained("averaged", root / "from one", resume=True)
