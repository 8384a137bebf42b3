"""Results of prediction for one image, and writers of result files."""

from upscore.results.instances import InstanceObject, InstanceResult
from upscore.results.mask_paste import Crop, MaskPaste
from upscore.results.polygons import Polygon
from upscore.results.semantic import SemanticResult

Result = SemanticResult | InstanceResult


def as_semantic(result: Result) -> SemanticResult:
    """Return the result unchanged, typed as a `SemanticResult`; fail if it is of another type."""
    assert isinstance(result, SemanticResult), "expected a result of semantic segmentation"
    return result


def as_instances(result: Result) -> InstanceResult:
    """Return the result unchanged, typed as an `InstanceResult`; fail if it is of another type."""
    assert isinstance(result, InstanceResult), "expected a result of instance segmentation"
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
