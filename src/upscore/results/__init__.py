"""Results of prediction: what a model returns for one image, and the files that hold it."""

from upscore.results.instances import InstanceObject, InstanceResult
from upscore.results.mask_paste import Crop, MaskPaste
from upscore.results.polygons import Polygon
from upscore.results.semantic import SemanticResult

Result = SemanticResult | InstanceResult


def as_semantic(result: Result) -> SemanticResult:
    """The result of a model that classifies pixels, as its type for type checkers."""
    assert isinstance(result, SemanticResult), "this result is of a model that finds objects"
    return result


def as_instances(result: Result) -> InstanceResult:
    """The result of a model that finds objects, as its type for type checkers."""
    assert isinstance(result, InstanceResult), "this result is of a model that classifies pixels"
    return result


__all__ = [
    "Crop",
    "InstanceObject",
    "InstanceResult",
    "MaskPaste",
    "Polygon",
    "Result",
    "SemanticResult",
    "as_instances",
    "as_semantic",
]
