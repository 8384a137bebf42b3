"""Checks the options of training and derives the options of `build`, the recipe and the stages from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from upscore.data.datasets import Dataset, depth_channels, geometric_classes
from upscore.errors import UserError
from upscore.models.build import Option
from upscore.training.recipes import INSTANCE_RECIPES, STAGE_RATES, Recipe
from upscore.training.tasks import INSTANCES, task_for_model


def add_counts(options: Mapping[str, Option], dataset: Dataset) -> dict[str, Option]:
    """Convert options of training to options of `build`: add the number of geometric classes and of depth channels.

    Raises:
        UserError: the data has no second label map or no depth.
    """
    counted = {name: option for name, option in options.items() if name != "geometric"}
    if options.get("geometric"):
        if not (classes := geometric_classes(dataset)):
            raise UserError("--geometric: this data has no second label map: leave the option out")
        counted["geometric_classes"] = len(classes)
    if "depth" in options:
        if not (channels := depth_channels(dataset)):
            raise UserError(f"--depth {options['depth']}: this data has no depth images: leave the option out")
        counted["depth_channels"] = channels
    return counted


FCN_OPTIONS = {
    "geometry": "geometry",
    "upsampling": "upsampling",
    "grouped": "dense",
    "pixel_loss": "loss",
    "null_background": "null-background",
    "geometric": "geometric",
    "depth": "depth",
    "depth_weights": "depth-weights",
}
"""Options of FCN only: name in Python -> name on the command line."""

MASK_RCNN_OPTIONS = {"max_detections": "max-detections", "min_side": "min-side", "preset": "preset"}
"""Options of Mask R-CNN only: name in Python -> name on the command line."""


def select_model_options(given: dict[str, Any], model: str) -> dict[str, Option]:
    """Return the given options that apply to one type of network only.

    Args:
        given: all options in `FCN_OPTIONS` and `MASK_RCNN_OPTIONS` by name; None if not given.
        model: name of the network.

    Raises:
        UserError: an option applies to the other type of network.
    """
    own, foreign = FCN_OPTIONS, MASK_RCNN_OPTIONS
    if task_for_model(model) is INSTANCES:
        own, foreign = foreign, own
    for name, option in foreign.items():
        if given[name] is not None:
            models = "mask_rcnn" if foreign is MASK_RCNN_OPTIONS else "FCN"
            raise UserError(f"--{option} applies to {models} only, but --model is {model}: leave the option out")
    return {name: given[name] for name in own if given[name] is not None}


def make_recipe(name: str, changes: dict[str, Any], recipes: Mapping[str, Recipe], model: str) -> Recipe:
    """Return a named recipe with changed fields; `patches` below 1 increases batch size and number of images.

    Args:
        name: name in `recipes`.
        changes: field -> value.
        recipes: `RECIPES` or `INSTANCE_RECIPES`.
        model: name of the network, for messages.

    Raises:
        UserError: there is no such recipe, or a field does not apply to the network or is out of its range.
    """
    if name not in recipes:
        raise UserError(f"--recipe {name} does not exist for {model}: choose one of {', '.join(recipes)}")
    if recipes is INSTANCE_RECIPES and (own := {"class_weights", "patches"} & changes.keys()):
        raise UserError(
            f"--{min(own).replace('_', '-')} applies to FCN only, but --model is {model}: leave the option out"
        )
    try:
        recipe = Recipe.model_validate({**recipes[name].model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        field = "-".join(str(part) for part in first["loc"]).replace("_", "-")
        raise UserError(f"--{field} {first['input']}: {first['msg'].lower()}") from error
    grown = {field: round(getattr(recipe, field) / recipe.patches) for field in ("batch_size", "images")}
    return recipe.model_copy(update=grown)


def check_ranges(*, epochs: int | None, workers: int | None, max_side: int | None) -> None:
    """Check the numbers that are not part of a recipe.

    Raises:
        UserError: a value is too small.
    """
    for option, value, minimum in (("epochs", epochs, 1), ("workers", workers, 0), ("max-side", max_side, 0)):
        if value is not None and value < minimum:
            raise UserError(f"--{option} {value} is invalid: give {minimum} or more")


def training_stages(model: str, recipe: str) -> list[str]:
    """Return the networks to train in turn, each from the one before.

    Raises:
        UserError: the recipe does not apply to the network.
    """
    if recipe == "at-once" and model != "fcn8s-atonce":
        raise UserError(f"--recipe at-once applies to fcn8s-atonce only, but --model is {model}: choose another recipe")
    if recipe != "staged":
        return [model]
    order = list(STAGE_RATES)
    if model not in order[1:]:
        raise UserError(
            f"--recipe staged applies to fcn16s and fcn8s only, but --model is {model}: choose another recipe"
        )
    return order[: order.index(model) + 1]
