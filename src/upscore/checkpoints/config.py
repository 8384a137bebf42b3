"""The configuration of a model, stored as `model.json`.

Field names of earlier versions are read as aliases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from upscore.errors import UserError
from upscore.labels import MAX_CLASSES
from upscore.models.backbones.base import Norm, StrideIn
from upscore.models.backbones.vgg import Geometry
from upscore.models.fcn.build import FCNName
from upscore.models.fcn.fcn import PixelLoss, Upsampling
from upscore.models.fcn.rgbd import Fusion
from upscore.models.mask_rcnn.build import Neck, PresetName
from upscore.models.mask_rcnn.roi_align import Pooling
from upscore.models.mask_rcnn.roi_heads import MaskHeadName, MaskLoss
from upscore.text import short_name

CONFIG = "model.json"
"""File name of the configuration."""
MAX_BYTES = 16 << 20
"""Largest size of `model.json` that is read; files written by upscore have a few kilobytes."""
DEFAULT_MAX_SIDE = 1024
"""Default of `ModelConfig.max_side`."""
STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)
"""Settings of models in which unknown fields are errors."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
ClassCount = Annotated[int, Field(ge=1, le=MAX_CLASSES)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]


class FCNArchitecture(BaseModel):
    """The arguments of `upscore.models.build` for an FCN."""

    model_config = STRICT

    name: FCNName
    backbone: Name
    num_classes: ClassCount
    geometry: Geometry
    upsampling: Upsampling
    grouped: bool
    pixel_loss: PixelLoss = "softmax"
    null_background: bool = False
    geometric_classes: int = Field(default=0, ge=0, le=MAX_CLASSES)
    depth: Literal["none"] | Fusion = "none"
    depth_channels: Literal[0, 1, 3] = 0


class MaskRCNNArchitecture(BaseModel):
    """The arguments of `upscore.models.build` for a Mask R-CNN."""

    model_config = STRICT

    name: Literal["mask_rcnn"]
    backbone: Name
    num_classes: ClassCount
    preset: PresetName = Field(default="paper", validation_alias=AliasChoices("preset", "profile"))
    neck: Neck = "fpn"
    channels: int = Field(default=0, ge=0, le=4096)
    box_features: int = Field(default=0, ge=0, le=16_384)
    box_convs: int = Field(default=0, ge=0, le=16)
    rpn_convs: int = Field(default=1, ge=0, le=16)
    head_norm: bool = False
    norm: Norm | Literal["auto"] = "auto"
    norm_eps: float = Field(default=1e-5, ge=0, le=1)
    stride_in: StrideIn = "3x3"
    smallest_anchor: int = Field(default=0, ge=0, le=4096)
    pooling: Pooling = "align"
    mask_loss: MaskLoss = "sigmoid"
    mask_head: MaskHeadName = "fcn"
    class_agnostic: bool = False
    max_detections: int = Field(
        default=100, ge=1, le=65_535, validation_alias=AliasChoices("max_detections", "detections")
    )
    min_side: int = Field(default=0, ge=0, le=8192)
    max_side: int = Field(default=1333, ge=32, le=8192)


TAGS = ("an FCN", "a Mask R-CNN")


def _tag(architecture: Any) -> str:
    """Return the tag of the architecture, by its name."""
    name = architecture.get("name") if isinstance(architecture, dict) else getattr(architecture, "name", None)
    return TAGS[name == "mask_rcnn"]


Architecture = Annotated[
    Annotated[FCNArchitecture, Tag(TAGS[0])] | Annotated[MaskRCNNArchitecture, Tag(TAGS[1])], Discriminator(_tag)
]


class PreprocessingConfig(BaseModel):
    """The fields of `upscore.models.Preprocessing`."""

    model_config = STRICT

    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]
    channel_order: Literal["RGB", "BGR"]


class DepthPreprocessingConfig(BaseModel):
    """The fields of `upscore.models.preprocessing.DepthPreprocessing`."""

    model_config = STRICT

    mean: tuple[Mean, ...] = Field(min_length=1, max_length=3)
    std: tuple[Deviation, ...] = Field(min_length=1, max_length=3)


class ModelConfig(BaseModel):
    """Everything about a model except its weights: architecture, classes, preprocessing, thresholds and provenance."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, populate_by_name=True)

    format: Literal["upscore-1"] = "upscore-1"
    architecture: Architecture
    classes: list[str] = Field(min_length=1, max_length=MAX_CLASSES)
    """Class names, by class index."""
    category_ids: list[Annotated[int, Field(gt=-(2**63), lt=2**63)]] | None = None
    """Category ids of the COCO data set that the network was trained on, by class index; None for other data."""
    geometric_classes: list[str] = []
    """Class names of the second head, by class index; empty without a second head."""
    preprocessing: PreprocessingConfig
    depth_preprocessing: DepthPreprocessingConfig | None = None
    """Preprocessing of the depth; None for a network without depth input."""
    max_side: int = Field(default=DEFAULT_MAX_SIDE, ge=0, le=1 << 20)
    """Images with a longer side above this number of pixels are reduced to it; 0: no limit."""
    score_threshold: float | None = Field(
        default=None, ge=0, le=1, validation_alias=AliasChoices("score_threshold", "min_score")
    )
    """Smallest score of the objects that a prediction returns; None for semantic segmentation."""
    mask_nms: bool = True
    """Whether predictions omit objects that are covered by more than half by better objects of the same class."""
    display_threshold: float | None = Field(default=None, ge=0, le=1)
    """Smallest score of the objects that are drawn and counted; None: `score_threshold`."""
    training: dict[str, Any] = {}
    """Provenance of the weights: data, recipe, epochs."""
    scores: dict[str, Any] = {}
    """Evaluation results and the data that they are for."""


def read_config(folder: Path) -> ModelConfig:
    """Read the configuration of a model folder.

    Raises:
        UserError: the file is missing, too large or invalid.
    """
    path = folder / CONFIG
    try:
        if not path.is_file():
            raise UserError(f"{path} is missing or not a file; give a model folder")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path} has {size} bytes, but at most {MAX_BYTES} are read; the file is damaged")
        config = ModelConfig.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}") from error
    if len(config.classes) != config.architecture.num_classes:
        raise UserError(
            f"{path}: classes has {len(config.classes)} names, but architecture.num_classes is "
            f"{config.architecture.num_classes}"
        )
    ids = config.category_ids
    if ids is not None and (len(ids) != len(config.classes) or len(set(ids)) < len(ids)):
        raise UserError(f"{path}: category_ids must be {len(config.classes)} different numbers, one per class")
    if isinstance(config.architecture, FCNArchitecture):
        _check_inputs_and_heads(path, config, config.architecture)
    return config


def _first_problem(error: ValidationError) -> str:
    """Describe the first invalid field, what it must be, and its value."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part not in TAGS)
    if first["type"] == "json_invalid" or not field:
        return f"is not a valid model configuration ({short_name(first['msg'], 120)})"
    value = "" if first["type"] == "missing" else f", not {short_name(repr(first['input']))}"
    return f"{short_name(field)}: {short_name(first['msg'], 200)}{value}"


def _check_inputs_and_heads(path: Path, config: ModelConfig, architecture: FCNArchitecture) -> None:
    """Check that the fields for the second head and the depth agree with the architecture."""
    if len(config.geometric_classes) != (count := architecture.geometric_classes):
        names = len(config.geometric_classes)
        raise UserError(f"{path}: geometric_classes has {names} names, but architecture.geometric_classes is {count}")
    depth = config.depth_preprocessing
    channels = {0} if depth is None else {len(depth.mean), len(depth.std)}
    if channels != {architecture.depth_channels}:
        raise UserError(
            f"{path}: depth_preprocessing must have as many channels as architecture.depth_channels "
            f"({architecture.depth_channels})"
        )
