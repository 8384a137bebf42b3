"""Networks, photos and recipes small enough to train in a test."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from upscore.data.datasets import Dataset
from upscore.data.synthetic import SceneDataset
from upscore.data.transforms import Batch, collate
from upscore.inference.run_manifest import FOLDER
from upscore.models.build import build
from upscore.models.fcn.fcn import FCN, Upsampling
from upscore.timing import Choice
from upscore.training.recipes import ACCUM, HEAVY, MODERN, Recipe

BACKBONE = "timm/test_resnet"
"""The smallest of timm's networks that has strides 8, 16 and 32, plain convolutions and batch normalisation."""

QUICK: dict[str, Any] = {"batch_size": 4, "crop": 48, "ema": 0.5}
"""Changes of the recipe `modern` with which a few steps show."""


def tiny_net(name: str = "fcn8s", *, classes: int = 8, upsampling: Upsampling = "fixed", grouped: bool = True) -> FCN:
    """A network over `BACKBONE`, the same at each call, with statistics of normalisation as if they were loaded."""
    torch.manual_seed(0)
    net = build(name, backbone=BACKBONE, num_classes=classes, upsampling=upsampling, grouped=grouped)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean += 0.01
    return net


def scenes(count: int = 6, *, seed: int = 0, side: int = 64) -> SceneDataset:
    """Scenes of 8 classes."""
    return SceneDataset(count, seed=seed, size=(side, side))


class StubModel:
    """What `predict_folder` asks of a model of objects, without a network."""

    task, classes, geometric_classes, depth_channels, max_side = "instances", ["cell"], (), 0, 0
    engine, precision, score_threshold, preprocessing = "torch", "float32", 0.5, None
    display_threshold = 0.5
    precision_choice = Choice("float32", "the only one", is_automatic=False)
    module = SimpleNamespace(state_dict=dict)
    result_settings: ClassVar[dict[str, Any]] = {}
    training: ClassVar[dict[str, Any]] = {}
    folder, category_ids = None, None

    def warmup(self, *sizes: tuple[int, int]) -> None:
        pass


def outputs(folder: Path) -> dict[str, bytes]:
    """The files in and below an output folder, without the run manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and FOLDER not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def batch_of(dataset: Dataset, *indices: int) -> Batch:
    """Some samples as a batch."""
    return collate([dataset[index] for index in indices])


def small(recipe: Recipe, images: int = 12, **changes: Any) -> Recipe:
    """A recipe for so many images in all."""
    return recipe.model_copy(update={"images": images, **changes})


RECIPES = {
    "modern": small(MODERN, **QUICK, learning_rate=1e-3),
    "heavy": small(HEAVY, learning_rate=1e-5),
    "accum": small(ACCUM, learning_rate=1e-2, accumulate=4),
}
"""Of two epochs on six images; in `accum` the last group of an epoch is smaller than the others."""


def weights(folder: str | Path) -> dict[str, Tensor]:
    """The weights of a model folder."""
    return load_file(Path(folder) / "model.safetensors")


def same(one: Any, other: Any) -> bool:
    """Whether two nests of tensors and values are equal to the last bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run, without the time they took."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [untimed(json.loads(line)) for line in lines]


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the time it took."""
    return {key: value for key, value in record.items() if not key.endswith("seconds")}


def outcome(folder: str | Path) -> dict[str, Any]:
    """All that a run ends with and that must not depend on how it got there."""
    folder = Path(folder)
    state = torch.load(folder / "state.pt", weights_only=True)
    state["progress"] = untimed(state["progress"])
    state["progress"]["records"] = [untimed(record) for record in state["progress"]["records"]]
    models = {name: weights(folder / name) for name in ("best", "last")}
    return {**models, "state": state, "metrics": metrics(folder)}


def write_photos(root: Path, count: int, *, seed: int = 0, side: int = 64) -> Path:
    """Scenes as a folder of images/, labels/ and classes.txt."""
    dataset = scenes(count, seed=seed, side=side)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for index in range(count):
        sample = dataset[index]
        assert sample.class_map is not None
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(root / "images" / f"{sample.name}.png")
        Image.fromarray(np.asarray(sample.class_map)).save(root / "labels" / f"{sample.name}.png")
    (root / "classes.txt").write_text("\n".join(dataset.classes) + "\n")
    return root
