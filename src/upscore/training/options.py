"""What the data has beside photos and classes, for networks that are to use it: a second label map, and depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from upscore.data.datasets import Dataset, depth_channels, geometric_classes
from upscore.errors import UserError
from upscore.models.build import Option
from upscore.training.recipes import INSTANCE_RECIPES, STAGE_RATES, Recipe
from upscore.training.tasks import INSTANCES, task_named


def with_counts(options: Mapping[str, Option], dataset: Dataset) -> dict[str, Option]:
    """Options of training -> of `build`: how many geometric classes, how many channels of depth.

    Raises:
        UserError: the data has none.
    """
    counted = {name: option for name, option in options.items() if name != "geometric"}
    if options.get("geometric"):
        if not (classes := geometric_classes(dataset)):
            raise UserError("--geometric: this data has no second label map (scenes and SIFT Flow have): leave it out")
        counted["geometric_classes"] = len(classes)
    if "depth" in options:
        if not (channels := depth_channels(dataset)):
            raise UserError(f"--depth {options['depth']}: this data has photos alone, no depth: leave it out")
        counted["depth_channels"] = channels
    return counted


OPTIONS_OF_FCN = {"geometry": "geometry", "upsampling": "upsampling", "grouped": "dense"}
OPTIONS_OF_FCN |= {"pixel_loss": "loss", "null_background": "null-background"}
OPTIONS_OF_FCN |= {"geometric": "geometric", "depth": "depth", "depth_weights": "depth-weights"}
OPTIONS_OF_MASK_RCNN = {"max_detections": "max_detections", "min_side": "min-side", "preset": "preset"}
"""What only one kind of network has, and what it is called on the command line."""


def own_options(given: dict[str, Any], model: str) -> dict[str, Option]:
    """Of the options that only some networks have, those that were given.

    Raises:
        UserError: one is of the other kind of network.
    """
    own, foreign = OPTIONS_OF_FCN, OPTIONS_OF_MASK_RCNN
    if task_named(model) is INSTANCES:
        own, foreign = foreign, own
    for name, option in foreign.items():
        if given[name] is not None:
            whose = "mask_rcnn" if foreign is OPTIONS_OF_MASK_RCNN else "the FCNs"
            raise UserError(f"--{option} is an option of {whose}; --model is {model}: leave it out")
    return {name: given[name] for name in own if given[name] is not None}


def changed(name: str, changes: dict[str, Any], recipes: Mapping[str, Recipe], model: str) -> Recipe:
    """The recipe of that name with other values in some fields; `patches` then makes batches and runs larger.

    Raises:
        UserError: there is no such recipe; a field is none of the network's, or out of its range.
    """
    if name not in recipes:
        raise UserError(f"no recipe is called {name!r}; choose one of {', '.join(recipes)} for {model}")
    if recipes is INSTANCE_RECIPES and (own := {"class_weights", "patches"} & changes.keys()):
        raise UserError(f"--{min(own).replace('_', '-')} is an option of the FCNs; --model is {model}: leave it out")
    try:
        recipe = Recipe.model_validate({**recipes[name].model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        field = "-".join(str(part) for part in first["loc"]).replace("_", "-")
        raise UserError(f"--{field} {first['input']}: {first['msg'].lower()}") from error
    grown = {field: round(getattr(recipe, field) / recipe.patches) for field in ("batch_size", "images")}
    return recipe.model_copy(update=grown)


def check_ranges(*, epochs: int | None, workers: int | None, max_side: int | None) -> None:
    """Of what is in no recipe.

    Raises:
        UserError: a value is too small.
    """
    for option, value, least in (("epochs", epochs, 1), ("workers", workers, 0), ("max-side", max_side, 0)):
        if value is not None and value < least:
            raise UserError(f"--{option} {value}: give {least} or more")


def stages_to(model: str, recipe: str) -> list[str]:
    """The networks to train, each from the one before.

    Raises:
        UserError: the recipe is none of this network.
    """
    if recipe == "at-once" and model != "fcn8s-atonce":
        raise UserError(f"recipe at-once scales the skips of fcn8s-atonce; --model is {model}")
    if recipe != "staged":
        return [model]
    order = list(STAGE_RATES)
    if model not in order[1:]:
        raise UserError(f"recipe staged leads to fcn16s or fcn8s; --model is {model}")
    return order[: order.index(model) + 1]
