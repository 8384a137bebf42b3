"""The configuration of a model, as `model.json` holds it. Names of fields that earlier versions wrote are read too."""

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
MAX_BYTES = 16 << 20
"""Bytes of `model.json` that are read; the ones that upscore writes have a few kilobytes."""
DEFAULT_MAX_SIDE = 1024
STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

Name = Annotated[str, Field(min_length=1, max_length=200)]
ClassCount = Annotated[int, Field(ge=1, le=MAX_CLASSES)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(gt=0, le=1e6)]


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


KINDS = ("an FCN", "a Mask R-CNN")


def _kind(architecture: Any) -> str:
    name = architecture.get("name") if isinstance(architecture, dict) else getattr(architecture, "name", None)
    return KINDS[name == "mask_rcnn"]


Architecture = Annotated[
    Annotated[FCNArchitecture, Tag(KINDS[0])] | Annotated[MaskRCNNArchitecture, Tag(KINDS[1])], Discriminator(_kind)
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
    """What the weights alone don't say of a model."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, populate_by_name=True)

    format: Literal["upscore-1"] = "upscore-1"
    architecture: Architecture
    classes: list[str] = Field(min_length=1, max_length=MAX_CLASSES)
    """A class's index is its position."""
    category_ids: list[Annotated[int, Field(gt=-(2**63), lt=2**63)]] | None = None
    """The id of each class in the COCO data set that the network was trained on; None: there was none."""
    geometric_classes: list[str] = []
    """As `classes`, of the second head; empty without one."""
    preprocessing: PreprocessingConfig
    depth_preprocessing: DepthPreprocessingConfig | None = None
    """None for a network that sees photos alone."""
    max_side: int = Field(default=DEFAULT_MAX_SIDE, ge=0, le=1 << 20)
    """Photos whose longer side is over this many pixels are reduced to it for the network; 0: never."""
    score_threshold: float | None = Field(
        default=None, ge=0, le=1, validation_alias=AliasChoices("score_threshold", "min_score")
    )
    """Score threshold of the objects that a prediction returns; None for a network that classifies pixels."""
    mask_nms: bool = True
    """Whether a prediction leaves out objects of which better ones of the same class hide more than half."""
    display_threshold: float | None = Field(default=None, ge=0, le=1)
    """Score threshold of the objects that are drawn and counted; None: `score_threshold`."""
    training: dict[str, Any] = {}
    """Where the weights come from: data, recipe, epochs."""
    scores: dict[str, Any] = {}
    """What they reached, and on what."""


def read_config(folder: Path) -> ModelConfig:
    """Read the configuration of a model folder.

    Raises:
        UserError: it is missing or not valid.
    """
    path = folder / CONFIG
    try:
        if not path.is_file():
            raise UserError(f"{path} is missing or no file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path} has {size} bytes; at most {MAX_BYTES} are read")
        config = ModelConfig.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}") from error
    if len(config.classes) != config.architecture.num_classes:
        raise UserError(
            f"{path}: {len(config.classes)} class names, but architecture.num_classes is "
            f"{config.architecture.num_classes}"
        )
    ids = config.category_ids
    if ids is not None and (len(ids) != len(config.classes) or len(set(ids)) < len(ids)):
        raise UserError(f"{path}: category_ids must be {len(config.classes)} different numbers, one for each class")
    if isinstance(config.architecture, FCNArchitecture):
        _check_modalities(path, config, config.architecture)
    return config


def _first_problem(error: ValidationError) -> str:
    """The first field that is not valid, what it must be, and its value."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part not in KINDS)
    if first["type"] == "json_invalid" or not field:
        return f"is no valid model configuration ({short_name(first['msg'], 120)})"
    value = "" if first["type"] == "missing" else f", not {short_name(repr(first['input']))}"
    return f"{short_name(field)}: {short_name(first['msg'], 200)}{value}"


def _check_modalities(path: Path, config: ModelConfig, architecture: FCNArchitecture) -> None:
    """The second head and the depth are told of in two places."""
    if len(config.geometric_classes) != (count := architecture.geometric_classes):
        names = len(config.geometric_classes)
        raise UserError(f"{path}: {names} names of geometric classes, but architecture.geometric_classes is {count}")
    depth = config.depth_preprocessing
    given = {0} if depth is None else {len(depth.mean), len(depth.std)}
    if given != {architecture.depth_channels}:
        raise UserError(f"{path}: depth_preprocessing is not of {architecture.depth_channels} channels of depth")
