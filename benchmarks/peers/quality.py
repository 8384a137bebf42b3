"""Measures scores and speed of engines and number formats, for a trained network on labelled images.

C classes; images are predicted one by one in original size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from time import perf_counter

from upscore.data.datasets import Dataset
from upscore.data.samples import Sample
from upscore.evaluation.instances import InstanceEvaluator
from upscore.evaluation.semantic import ConfusionMatrix, semantic_scores
from upscore.inference import Model
from upscore.inference.calibration import agreement
from upscore.inference.engines import EngineName, Precision
from upscore.inference.folder import SAMPLE, common_sizes
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult, Result, SemanticResult


@dataclass(frozen=True)
class Setting:
    """Engine and number format."""

    engine: EngineName
    precision: Precision


REFERENCE = Setting("torch", "float32")
SETTINGS = (
    REFERENCE,
    Setting("torch", "bfloat16"),
    Setting("onnxruntime", "float32"),
    Setting("openvino", "float32"),
    Setting("openvino", "bfloat16"),
    Setting("openvino", "int8"),
)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Score, agreement and speed of a setting."""

    setting: Setting
    score: float
    """Mean IoU over the C classes, or COCO's mask AP, in 0..1."""
    agreement: float
    """Mean agreement with the reference over images, in 0..1: fraction of equal pixels, or `ap_dsb` of objects."""
    seconds: float
    """Median time per image in seconds, from pixels to the class map or the objects."""


def measure_quality(
    models: dict[Setting, Model], dataset: Dataset, *, progress: ProgressCallback | None = None
) -> list[Quality]:
    """Predict each image in all settings in turn, and compute the scores.

    Args:
        models: a trained network by setting, including `REFERENCE`.
        dataset: labelled images with the classes of the network.
        progress: receives the progress.
    """
    meters = {
        setting: _Objects(model) if model.task == "instances" else _Pixels(model) for setting, model in models.items()
    }
    agreements: dict[Setting, list[float]] = {setting: [] for setting in models}
    seconds: dict[Setting, list[float]] = {setting: [] for setting in models}
    expected = common_sizes([_size(dataset[index]) for index in range(0, len(dataset), max(1, len(dataset) // SAMPLE))])
    for model in models.values():
        model.warmup(*expected)
    for index in range(len(dataset)):
        sample, results = dataset[index], {}
        for setting in _rotate(list(models), index):
            start = perf_counter()
            result = meters[setting].predict(sample)
            seconds[setting].append(perf_counter() - start)
            results[setting] = meters[setting].update(result, sample)
        for setting, prediction in results.items():
            agreements[setting].append(agreement(results[REFERENCE], prediction))
        if progress is not None:
            progress(index + 1, len(dataset))
    return [
        Quality(
            setting=setting,
            score=meters[setting].score(),
            agreement=mean(agreements[setting]),
            seconds=median(seconds[setting]),
        )
        for setting in models
    ]


def _size(sample: Sample) -> tuple[int, int]:
    return sample.image.shape[-2], sample.image.shape[-1]


class _Pixels:
    def __init__(self, model: Model) -> None:
        self.model, self.confusion = model, ConfusionMatrix(len(model.classes))

    def predict(self, sample: Sample) -> Result:
        return self.model.predict(sample.image)

    def update(self, result: Result, sample: Sample) -> Result:
        assert isinstance(result, SemanticResult)
        assert sample.class_map is not None
        self.confusion.update(result.class_map, sample.class_map)
        return result

    def score(self) -> float:
        return semantic_scores(self.confusion.counts, self.model.classes).mean_iu


class _Objects:
    """Scores all objects for average precision, and compares those above the model's display threshold."""

    def __init__(self, model: Model) -> None:
        self.model, self.score_threshold = model, model.display_threshold
        self.evaluator = InstanceEvaluator(model.classes, max_detections=model.max_detections)

    def predict(self, sample: Sample) -> Result:
        return self.model.predict(sample.image, score_threshold=0.0)

    def update(self, result: Result, sample: Sample) -> Result:
        """Add a prediction, and return its objects above the display threshold."""
        assert isinstance(result, InstanceResult)
        assert sample.objects is not None
        self.evaluator.update(result, sample.objects)
        return result.filter(score_threshold=self.score_threshold).mask_nms()

    def score(self) -> float:
        return self.evaluator.scores(self.score_threshold).AP


def _rotate(settings: Sequence[Setting], by: int) -> list[Setting]:
    start = by % len(settings)
    return [*settings[start:], *settings[:start]]
