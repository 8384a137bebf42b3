"""From labelled photos to a model folder: data, network, recipe, stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from upscore.checkpoints.folder import DEFAULT_MAX_SIDE, find_model, load_model
from upscore.checkpoints.read import read_state_dict
from upscore.data.datasets import open_splits
from upscore.errors import UserError
from upscore.models.backbones import load_classifier
from upscore.models.build import build
from upscore.models.fcn import FCN, Upsampling
from upscore.models.precision import Precision, resolve_precision
from upscore.models.vgg import Geometry
from upscore.training.feed import default_workers
from upscore.training.loop import Watcher, fit
from upscore.training.recipes import RECIPES, STAGE_RATES, Recipe
from upscore.training.run_folder import RunFolder
from upscore.training.trainer import Progress

IMAGENET, NONE = "imagenet", "none"


def train(
    data: str | Path,
    output: str | Path,
    *,
    model: str = "fcn8s",
    backbone: str = "efficientnet_lite0",
    weights: str | Path = IMAGENET,
    recipe: str = "modern",
    changes: dict[str, Any] | None = None,
    epochs: int | None = None,
    geometry: Geometry = "same",
    upsampling: Upsampling = "fixed",
    grouped: bool = True,
    head_only: bool = False,
    max_side: int = DEFAULT_MAX_SIDE,
    holdout: str | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    workers: int | None = None,
    resume: bool = False,
    watch: Callable[[RunFolder], Sequence[Watcher]] = lambda folder: [],
) -> Progress:
    """Train a network on labelled photos into a run folder, which then stands for its best model.

    Args:
        data: see `upscore.data.open_splits`, which `holdout` goes to.
        model, backbone, geometry, upsampling, grouped: see `upscore.models.build`.
        weights: what to start from: "imagenet"; "none"; a model folder (layers of the same name and shape are taken
            over); or a file with the backbone's classifier as torchvision or timm publish it.
        recipe: a name in `RECIPES`; `changes` replaces some of its fields.
        epochs: passes over the training images, instead of the recipe's number of images.
        head_only: train the score layers alone, the backbone as it is.
        max_side: larger photos are reduced to it; 0: never.
        resume: go on where the run in `output` stands, if one is there.
        watch: run folder -> who is told how it goes (once for each stage).

    Raises:
        UserError: something that was asked for can't be done.
        KeyboardInterrupt: the state was saved, and `resume` goes on from it.
    """
    settings = _changed(recipe, changes or {})
    stages = _stages(recipe, model)
    _check(epochs=epochs, workers=workers, max_side=max_side)
    folders = {stage: RunFolder(output if stage == model else Path(output) / stage) for stage in stages}
    if not resume:  # of any stage, before the first is trained
        for folder in folders.values():
            folder.refuse_run()
    train_set, val_set = open_splits(data, holdout=holdout)
    if epochs is not None:
        settings = settings.model_copy(update={"images": epochs * len(train_set), "max_epochs": epochs})

    progress = Progress()
    for stage, folder in folders.items():
        torch.manual_seed(seed)  # the weights of layers that start from none
        net = build(
            stage,
            backbone=backbone,
            num_classes=len(train_set.classes),
            geometry=geometry,
            upsampling=upsampling,
            grouped=grouped,
            pretrained=weights == IMAGENET,
        )
        net.classes = train_set.classes
        start_from(net, weights)
        stage_recipe = settings
        if len(stages) > 1:
            rate = settings.learning_rate * STAGE_RATES[stage]
            stage_recipe = settings.model_copy(update={"learning_rate": rate})
        provenance = {
            "data": str(data),
            "train_images": len(train_set),
            "validation_images": len(val_set),
            "holdout": holdout,
            "weights": str(weights),
            "recipe_name": recipe,
            "recipe": stage_recipe.model_dump(mode="json"),
            "head_only": head_only,
            "seed": seed,
        }
        asked = {
            "model": stage,
            **{name: value for name, value in net.architecture.items() if name != "name"},
            "classes": train_set.classes,
            "max_side": max_side,
            "precision": precision,
            "epochs": epochs,
            **{name: value for name, value in provenance.items() if name not in ("recipe", "recipe_name")},
            "recipe": recipe,
            **stage_recipe.model_dump(mode="json"),
        }
        progress = fit(
            net,
            train_set,
            val_set,
            stage_recipe,
            folder,
            max_side=max_side,
            dtype=resolve_precision(net, precision),
            head_only=head_only,
            seed=seed,
            workers=default_workers() if workers is None else workers,
            resume=folder.open(asked, resume=resume),
            provenance=provenance,
            watchers=watch(folder),
        )
        weights = folder.best
    return progress


def start_from(net: FCN, weights: str | Path) -> None:
    """Give a network other weights than it was built with; see `train`.

    From a model folder comes every layer of the same name and shape, so that 16s starts from 32s, or a net for new
    classes from one for others; the trunk must be the same.
    """
    if weights in (IMAGENET, NONE):
        return
    path = Path(weights)
    if path.is_file():
        load_classifier(net.trunk, read_state_dict(path))
        return
    source, card = load_model(find_model(path))
    for field in ("backbone", "geometry"):
        theirs, ours = source.architecture[field], net.architecture[field]
        if theirs != ours:
            raise UserError(f"{path}: its {field} is {theirs!r}, but {ours!r} is asked for")
    own = net.state_dict()
    matching = {
        name: value
        for name, value in source.state_dict().items()
        if name in own and own[name].shape == value.shape and (name.startswith("trunk.") or card.classes == net.classes)
    }
    net.load_state_dict(matching, strict=False)
    net.trunk.preprocessing = source.trunk.preprocessing


def _changed(name: str, changes: dict[str, Any]) -> Recipe:
    if name not in RECIPES:
        raise UserError(f"no recipe is called {name!r}; choose one of {', '.join(RECIPES)}")
    try:
        return Recipe.model_validate({**RECIPES[name].model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        field = "-".join(str(part) for part in first["loc"]).replace("_", "-")
        raise UserError(f"--{field} {first['input']}: {first['msg'].lower()}") from error


def _check(*, epochs: int | None, workers: int | None, max_side: int) -> None:
    for option, value, least in (("epochs", epochs, 1), ("workers", workers, 0), ("max-side", max_side, 0)):
        if value is not None and value < least:
            raise UserError(f"--{option} {value}: give {least} or more")


def _stages(recipe: str, model: str) -> list[str]:
    """The networks to train, each from the one before."""
    if recipe == "at-once" and model != "fcn8s-atonce":
        raise UserError(f"recipe at-once scales the skips of fcn8s-atonce; --model is {model}")
    if recipe != "staged":
        return [model]
    order = list(STAGE_RATES)
    if model not in order[1:]:
        raise UserError(f"recipe staged leads to fcn16s or fcn8s; --model is {model}")
    return order[: order.index(model) + 1]
