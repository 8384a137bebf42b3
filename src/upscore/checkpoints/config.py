"""The model card: what is in `model.json`, and what is required of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from upscore.errors import UserError
from upscore.labels import MAX_CLASSES

CONFIG = "model.json"
DEFAULT_MAX_SIDE = 1024


class FCNArchitecture(BaseModel):
    """The arguments of `upscore.models.build` for an FCN."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    backbone: str
    num_classes: int = Field(ge=1, le=MAX_CLASSES)
    geometry: Literal["caffe", "same"]
    upsampling: Literal["fixed", "intermediate", "learned"]
    grouped: bool
    pixel_loss: Literal["softmax", "sigmoid"] = "softmax"
    null_background: bool = False
    geometric_classes: int = Field(default=0, ge=0, le=MAX_CLASSES)
    depth: Literal["none", "early", "late", "only"] = "none"
    depth_channels: Literal[0, 1, 3] = 0


class MaskRCNNArchitecture(BaseModel):
    """The arguments of `upscore.models.build` for a Mask R-CNN; `build` itself says which there are."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, bool | int | float | str]  # pyright: ignore[reportIncompatibleVariableOverride]

    name: Literal["mask_rcnn"]
    backbone: str
    num_classes: int = Field(ge=1, le=MAX_CLASSES)


KINDS = ("an FCN", "a Mask R-CNN")


def _kind(architecture: Any) -> str:
    name = architecture.get("name") if isinstance(architecture, dict) else getattr(architecture, "name", None)
    return KINDS[name == "mask_rcnn"]


Architecture = Annotated[
    Annotated[FCNArchitecture, Tag(KINDS[0])] | Annotated[MaskRCNNArchitecture, Tag(KINDS[1])], Discriminator(_kind)
]


class PreprocessingConfig(BaseModel):
    """The fields of `upscore.models.Preprocessing`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: Literal["RGB", "BGR"]


class DepthPreprocessingConfig(BaseModel):
    """The fields of `upscore.models.preprocessing.DepthPreprocessing`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]


class ModelConfig(BaseModel):
    """`model.json`: what the weights alone don't say."""

    model_config = ConfigDict(frozen=True)

    format: Literal["upscore-1"] = "upscore-1"
    architecture: Architecture
    classes: list[str]
    """A class's index is its position."""
    geometric_classes: list[str] = []
    """As `classes`, of the second head; empty without one."""
    preprocessing: PreprocessingConfig
    depth_preprocessing: DepthPreprocessingConfig | None = None
    """None for a network that sees photos alone."""
    max_side: int = Field(default=DEFAULT_MAX_SIDE, ge=0)
    """Photos whose longer side is over this many pixels are reduced to it for the network; 0: never."""
    score_threshold: float | None = Field(default=None, ge=0, le=1)
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
    """The card of a model folder.

    Raises:
        UserError: it is missing or not valid.
    """
    path = folder / CONFIG
    try:
        config = ModelConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part not in KINDS) or "the file"
        raise UserError(f"{path}: {field}: {first['msg']}") from error
    if len(config.classes) != config.architecture.num_classes:
        raise UserError(
            f"{path}: {len(config.classes)} class names, but architecture.num_classes is {config.architecture.num_classes}"
        )
    if isinstance(config.architecture, FCNArchitecture):
        _check_modalities(path, config, config.architecture)
    return config


def _check_modalities(path: Path, config: ModelConfig, architecture: FCNArchitecture) -> None:
    """The second head and the depth are told of in two places."""
    if len(config.geometric_classes) != (count := architecture.geometric_classes):
        names = len(config.geometric_classes)
        raise UserError(f"{path}: {names} names of geometric classes, but architecture.geometric_classes is {count}")
    depth = config.depth_preprocessing
    given = {0} if depth is None else {len(depth.mean), len(depth.std)}
    if given != {architecture.depth_channels}:
        raise UserError(f"{path}: depth_preprocessing is not of {architecture.depth_channels} channels of depth")
