"""What an engine and a number format cost in quality, on a trained network and labelled photos.

C classes, N objects; photos are predicted one by one, at their own size.
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
class Way:
    """To run a network."""

    engine: EngineName
    precision: Precision


REFERENCE = Way("torch", "float32")
WAYS = (
    REFERENCE,
    Way("torch", "bfloat16"),
    Way("onnxruntime", "float32"),
    Way("openvino", "float32"),
    Way("openvino", "bfloat16"),
    Way("openvino", "int8"),
)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of one way to run a network; shares are 0 to 1."""

    way: Way
    score: float
    """Mean IU over the C classes, or COCO's mask AP."""
    agreement: float
    """With the reference, the mean over photos: of class maps the share of equal pixels, of objects `ap_dsb`."""
    seconds: float
    """A photo, from its pixels to its class map or its objects; the median."""


def measure_quality(
    models: dict[Way, Model], dataset: Dataset, *, progress: ProgressCallback | None = None
) -> list[Quality]:
    """Predict each photo in every way, one after the other, and score all of them.

    Args:
        models: one trained network, `REFERENCE` among its ways.
        dataset: labelled photos whose classes are the network's own.
    """
    meters = {way: _Objects(model) if model.task == "instances" else _Pixels(model) for way, model in models.items()}
    agreements: dict[Way, list[float]] = {way: [] for way in models}
    seconds: dict[Way, list[float]] = {way: [] for way in models}
    expected = common_sizes([_size(dataset[index]) for index in range(0, len(dataset), max(1, len(dataset) // SAMPLE))])
    for model in models.values():
        model.warmup(*expected)
    for index in range(len(dataset)):
        sample, shown = dataset[index], {}
        for way in _rotated(list(models), index):
            start = perf_counter()
            found = meters[way].predict(sample)
            seconds[way].append(perf_counter() - start)
            shown[way] = meters[way].update(found, sample)
        for way, prediction in shown.items():
            agreements[way].append(agreement(shown[REFERENCE], prediction))
        if progress is not None:
            progress(index + 1, len(dataset))
    return [
        Quality(way=way, score=meters[way].score(), agreement=mean(agreements[way]), seconds=median(seconds[way]))
        for way in models
    ]


def _size(sample: Sample) -> tuple[int, int]:
    return sample.image.shape[-2], sample.image.shape[-1]


class _Pixels:
    def __init__(self, model: Model) -> None:
        self.model, self.confusion = model, ConfusionMatrix(len(model.classes))

    def predict(self, sample: Sample) -> Result:
        return self.model.predict(sample.image)

    def update(self, found: Result, sample: Sample) -> Result:
        assert isinstance(found, SemanticResult)
        assert sample.class_map is not None
        self.confusion.update(found.class_map, sample.class_map)
        return found

    def score(self) -> float:
        return semantic_scores(self.confusion.counts, self.model.classes).mean_iu


class _Objects:
    """All candidates are ranked for average precision; those from the model's own operating point on are compared."""

    def __init__(self, model: Model) -> None:

        self.model, self.score_threshold = model, model.display_threshold
        self.evaluator = InstanceEvaluator(model.classes, max_detections=model.max_detections)

    def predict(self, sample: Sample) -> Result:
        return self.model.predict(sample.image, score_threshold=0.0)

    def update(self, found: Result, sample: Sample) -> Result:
        """What a user would see of it."""
        assert isinstance(found, InstanceResult)
        assert sample.objects is not None
        self.evaluator.update(found, sample.objects)
        return found.filter(score_threshold=self.score_threshold).mask_nms()

    def score(self) -> float:
        return self.evaluator.scores(self.score_threshold).AP


def _rotated(ways: Sequence[Way], by: int) -> list[Way]:
    place = by % len(ways)
    return [*ways[place:], *ways[:place]]
