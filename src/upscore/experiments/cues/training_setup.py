"""Training set-up of an experiment, taken from a trained model or from the name of a network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from upscore.checkpoints.config import DEFAULT_MAX_SIDE, ModelConfig
from upscore.checkpoints.model_folder import WEIGHTS, built_in_models, find_model, load_model
from upscore.errors import UserError
from upscore.files import file_digest
from upscore.models.build import Option, build
from upscore.models.fcn.build import FCN_STRIDES
from upscore.models.fcn.fcn import FCN
from upscore.training.init_weights import IMAGENET, NONE
from upscore.training.recipes import MODERN, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """Architecture, recipe and initial weights of the networks that an experiment trains."""

    architecture: dict[str, Option]
    """The arguments of `build`."""
    recipe: Recipe
    weights: str = IMAGENET
    """Initial weights, as `upscore.training.init_weights.load_initial_weights` takes them."""
    head_only: bool = False
    max_side: int = DEFAULT_MAX_SIDE
    reference: Path | None = None
    """The folder of the trained model; None for a network's name."""
    colour: float = 0.0
    """Strength of the colour augmentation that the trained model was trained with."""
    training: dict[str, Any] = field(default_factory=dict)
    """The field `training` of its model.json."""

    def build(self) -> FCN:
        """Build the network, with ImageNet weights in the backbone if `weights` says so."""
        options = self.architecture | {"pretrained": self.weights == IMAGENET}
        net = build(str(options.pop("name")), **options)
        assert isinstance(net, FCN)
        return net

    def settings(self) -> dict[str, object]:
        """Return everything that the result depends on, for the comparison of runs."""
        weights = None if self.reference is None else file_digest(self.reference / WEIGHTS)
        return {
            "architecture": self.architecture,
            "recipe": self.recipe.model_dump(mode="json"),
            "weights": self.weights,
            "head_only": self.head_only,
            "max_side": self.max_side,
            "reference": None if self.reference is None else str(self.reference),
            "reference_sha256": weights,
        }


def training_setup(
    model: str,
    classes: list[str],
    *,
    backbone: str | None = None,
    weights: str | None = None,
    max_side: int | None = None,
) -> TrainingSetup:
    """Return the training set-up of a model or of a network's name.

    Colour augmentation is turned off, whatever the recipe: hidden pixels have the same colour in every image.

    Args:
        model: a network's name, or a model folder or run, which defines its own backbone and image size.
        classes: class names of the data; those of a trained model must be equal.
        backbone, max_side: options of a named network.
        weights: initial weights; by default ImageNet, or those of the trained model.

    Raises:
        UserError: the model is not an FCN for the classes of the data, or an option does not apply to it.
    """
    if model in FCN_STRIDES:
        architecture = {"name": model, "backbone": backbone or "efficientnet_lite0", "num_classes": len(classes)}
        side = DEFAULT_MAX_SIDE if max_side is None else max_side
        if side < 0:
            raise UserError(f"--max-side {side} is invalid: give the longest side in pixels, or 0 for no limit")
        recipe = _with_changes(MODERN, {"colour": 0})
        return TrainingSetup(architecture=architecture, recipe=recipe, weights=weights or IMAGENET, max_side=side)
    if model == "mask_rcnn":
        raise UserError(f"--model {model} is not for semantic segmentation: choose one of {', '.join(FCN_STRIDES)}")
    for option, value in (("backbone", backbone), ("max-side", max_side)):
        if value is not None:
            raise UserError(f"--{option} applies to a network's name; {model} is a trained model: leave the option out")
    if len(Path(model).parts) == 1 and not Path(model).exists() and model not in built_in_models():
        raise UserError(
            f"--model {model} is neither a folder nor a network: give a folder or one of {', '.join(FCN_STRIDES)}"
        )
    folder = find_model(model)
    net, config = load_model(folder)
    if not isinstance(net, FCN) or net.architecture.get("geometric_classes") or net.architecture.get("depth") != "none":
        raise UserError(f"{model} has a second head or depth input: give a model with one set of classes and no depth")
    if config.classes != classes:
        raise UserError(
            f"{model} has the classes {', '.join(config.classes)}, but the data has {', '.join(classes)}: use data "
            "with the same classes in the same order"
        )
    own = _recipe(config, model)
    return TrainingSetup(
        architecture=config.architecture.model_dump(),
        recipe=_with_changes(own, {"colour": 0}),
        weights=weights or _initial_weights(config, model),
        head_only=bool(config.training.get("head_only")),
        max_side=config.max_side,
        reference=folder,
        colour=own.colour,
        training=config.training,
    )


def budget(
    setup: TrainingSetup,
    train_images: int,
    *,
    images: int | None = None,
    epochs: int | None = None,
    crop: int | None = None,
) -> TrainingSetup:
    """Return the set-up with another number of training images, of epochs, or another crop size.

    Args:
        setup: the set-up to change.
        train_images: number of images in an epoch.
        images: total number of training images.
        epochs: number of epochs, instead of `images`.
        crop: side of the random crop in pixels.

    Raises:
        UserError: a number is out of its range, or both images and epochs are given.
    """
    if images is not None and epochs is not None:
        raise UserError(f"--images {images} and --epochs {epochs} exclude each other: give one of them")
    if epochs is not None and epochs < 1:
        raise UserError(f"--epochs {epochs} is invalid: give 1 or more")
    changes = {"images": images, "crop": crop}
    if epochs is not None:
        changes |= {"images": epochs * train_images, "max_epochs": epochs}
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(setup, recipe=_with_changes(setup.recipe, given))


def _initial_weights(config: ModelConfig, model: str) -> str:
    """Return the initial weights of the model's own training, which must not have seen the unmasked images."""
    weights = str(config.training.get("weights", IMAGENET))
    if weights not in (IMAGENET, NONE) and not Path(weights).is_file():
        raise UserError(
            f"{model} was trained from {weights}, which was trained on unmasked images or does not exist: give "
            "--weights imagenet, none, or a classifier's file"
        )
    return weights


def _recipe(config: ModelConfig, model: str) -> Recipe:
    """Return the recipe that the model was trained with; the default recipe for an imported model."""
    try:
        return Recipe.model_validate(config.training["recipe"]) if "recipe" in config.training else MODERN
    except ValidationError as error:
        raise UserError(
            f"{model}: the recipe in model.json is not valid in this version: train the model again"
        ) from error


def _with_changes(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate({**recipe.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]} {first['input']}: {first['msg'].lower()}") from error
