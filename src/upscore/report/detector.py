"""Mask R-CNN: trained on the scenes that the FCNs saw, then asked about the scenes that none has seen.

P proposals, H W pixels of a scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upscore.checkpoints.folder import load_model
from upscore.data.datasets import Dataset
from upscore.data.object_samples import SceneObjects
from upscore.evaluation.instances import InstanceEvaluator, InstanceScores
from upscore.inference import Model
from upscore.models.build import build
from upscore.models.mask_rcnn import MaskRCNN
from upscore.models.precision import resolve_precision
from upscore.models.profiles import Limits
from upscore.progress import ProgressCallback
from upscore.report.networks import BACKBONE, Settings, Splits
from upscore.results import InstanceResult, as_instances
from upscore.structures import Sample
from upscore.training.callbacks import Callback
from upscore.training.loop import fit
from upscore.training.recipes import MODERN_INSTANCES, Recipe
from upscore.training.run_folder import Records, RunFolder
from upscore.training.start import start_from

NAME, TITLE = "mask_rcnn", "Mask R-CNN"

SIZES = {"channels": 128, "smallest_anchor": 16}
"""Scenes are small, and so are their objects."""

REGIONS = 64
"""Regions that are learned from in each scene, as in the paper's C4 networks (section 3.1): it has few objects."""

PROPOSALS = Limits(before_nms=300, after_nms=200)
"""A small scene has few places to propose."""

ROUND = 40
"""Scenes between two points of the curves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """The network, how it learned, and what it finds in the test scenes."""

    net: MaskRCNN
    records: list[dict[str, Any]]
    """One for each round: `upscore.training.loop`."""
    found: list[InstanceResult]
    """In each test scene, at the network's operating point."""
    scores: InstanceScores

    def proposals(self, image: Tensor) -> Tensor:
        """What the first stage proposes in a scene (3, H, W) uint8: boxes (P, 4) in its pixels, best first."""
        with torch.inference_mode():
            outputs = self.net(self.net.resizing(image, self.net.preprocessing)[None])
            size = (image.shape[-2], image.shape[-1])  # that of the network's input, too
            boxes, _ = self.net.rpn.proposals(outputs.proposals, [size], self.net.rpn.inference_limits)
        return boxes[0].cpu()


class Rounds:
    """Scenes a few at a time, so that an epoch is short: `turn` says which few."""

    def __init__(self, scenes: Dataset) -> None:
        self.scenes, self.classes, self.turn = scenes, scenes.classes, 0

    def __len__(self) -> int:
        return min(ROUND, len(self.scenes))

    def __getitem__(self, index: int) -> Sample:
        return self.scenes[(self.turn * len(self) + range(len(self))[index]) % len(self.scenes)]


class _NextRound(Callback):
    """Moves on to the next scenes after each epoch."""

    def __init__(self, progress: ProgressCallback, rounds: Rounds) -> None:
        self.progress, self.rounds = progress, rounds

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        self.progress(step, total_steps)

    def on_epoch_end(self, records: Records, scores: object, is_best: bool) -> None:
        self.rounds.turn += 1


def recipe(settings: Settings) -> Recipe:
    """Short training, as that of the FCNs; validated at the end alone, which sets the operating point."""
    changes = {
        "images": settings.detector_images,
        "batch_size": 4,
        "crop": 0,
        "scale": None,
        "colour": 0,
        "ema": 0.97,
        "validate_every": math.ceil(settings.detector_images / ROUND),
    }
    return MODERN_INSTANCES.model_copy(update=changes)


def train(
    splits: Splits, settings: Settings, output: Path, seed: int, advance: ProgressCallback, *, start: Path | None = None
) -> Detector:
    """Train into `output`/mask_rcnn, and look for the objects of the test scenes.

    The trunk's weights are those of the model `start`, an FCN over the same backbone, or else the classifier's.

    Raises:
        UserError: training diverged.
        KeyboardInterrupt: nothing is left half written.
    """
    rounds = Rounds(SceneObjects(splits.train))
    torch.manual_seed(seed)  # the weights of the new layers
    net = build(
        NAME, backbone=BACKBONE, num_classes=len(rounds.classes), pretrained=True, min_side=settings.side, **SIZES
    )
    net.classes = rounds.classes
    net.settings = replace(net.settings, batch_size=REGIONS)
    net.rpn.training_limits = net.rpn.inference_limits = PROPOSALS
    if start is not None:
        start_from(net, start)
    folder, chosen = RunFolder(output / NAME), recipe(settings)
    weights = "imagenet" if start is None else start.name
    provenance = {"data": "generated scenes", "weights": weights, "recipe": chosen.model_dump(mode="json")}
    try:
        progress = fit(
            net,
            rounds,
            SceneObjects(splits.validation),
            chosen,
            folder,
            max_side=0,
            dtype=resolve_precision(net, "auto"),
            seed=seed,
            provenance={**provenance, "seed": seed, "train_images": len(splits.train)},
            callbacks=[_NextRound(advance, rounds)],
        )
    finally:
        (folder.path / "state.pt").unlink(missing_ok=True)  # nobody resumes a demo
    trained, _ = load_model(folder.last)
    assert isinstance(trained, MaskRCNN)
    trained.rpn.inference_limits = PROPOSALS
    found, scores = _find(Model(trained), trained, SceneObjects(splits.test))
    return Detector(net=trained, records=progress.records, found=found, scores=scores)


def _find(predictor: Model, net: MaskRCNN, scenes: Dataset) -> tuple[list[InstanceResult], InstanceScores]:
    evaluator, found = InstanceEvaluator(net.classes, max_detections=net.detections), []
    for index in range(len(scenes)):
        sample = scenes[index]
        candidates = as_instances(predictor.predict(sample.image, min_score=0.0))
        assert sample.objects is not None
        evaluator.update(candidates, sample.objects)
        found.append(candidates.filter(score_threshold=net.min_score))
    return found, evaluator.scores(net.min_score)


def parts(records: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Each of the five losses by name: (epoch, mean over the epoch)."""
    names = [name for name in records[0] if name.endswith("_loss") and name not in ("train_loss", "val_loss")]
    return {name.removesuffix("_loss"): [(record["epoch"], record[name]) for record in records] for name in names}
