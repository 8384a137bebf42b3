"""`train`: trains a network on labelled images into a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch

from upscore.checkpoints.config import DEFAULT_MAX_SIDE
from upscore.data.datasets import Dataset, data_digest, geometric_classes, parse_scenes, subset
from upscore.data.instance_datasets import task_of
from upscore.distributed.process_group import ProcessGroup, accelerator, connected
from upscore.errors import UserError
from upscore.models.backbones.base import RESNETS
from upscore.models.backbones.vgg import Geometry
from upscore.models.build import build
from upscore.models.fcn.fcn import FCN, PixelLoss, Upsampling
from upscore.models.fcn.rgbd import Fusion
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.mask_rcnn.build import PresetName
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.models.precision import Precision
from upscore.timing import Choice
from upscore.training.callbacks import Callback, CallbackList, RunFolderWriter
from upscore.training.dataset_stats import (
    default_max_detections,
    fit_depth_preprocessing,
    max_objects_per_image,
    median_frequency_weights,
    require_labels,
)
from upscore.training.init_weights import IMAGENET, NONE, load_initial_weights
from upscore.training.loader import default_workers, refuse_reading_process
from upscore.training.loop import count_epochs, count_steps, fit
from upscore.training.options import add_counts, check_ranges, make_recipe, select_model_options, training_stages
from upscore.training.precision import choose_precision
from upscore.training.recipes import STAGE_RATES
from upscore.training.run_folder import RunFolder
from upscore.training.tasks import INSTANCES, Network, Task, task_for_model
from upscore.training.trainer import Progress

HELD_OUT = 0.2
"""Fraction of the images of a data set without validation set that is used for validation."""


@connected()
def train(
    data: str | Path | Dataset,
    output: str | Path,
    *,
    validation: Dataset | None = None,
    model: str = "fcn8s",
    backbone: str = "efficientnet_lite0",
    weights: str | Path = IMAGENET,
    recipe: str = "modern",
    changes: dict[str, Any] | None = None,
    epochs: int | None = None,
    geometry: Geometry | None = None,
    upsampling: Upsampling | None = None,
    grouped: bool | None = None,
    pixel_loss: PixelLoss | None = None,
    null_background: bool | None = None,
    geometric: bool | None = None,
    depth: Fusion | None = None,
    depth_weights: str | Path | None = None,
    max_detections: int | None = None,
    min_side: int | None = None,
    preset: PresetName | None = None,
    head_only: bool = False,
    max_side: int | None = None,
    val_pattern: str | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    workers: int | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Progress:
    """Train a network on labelled images into a run folder, which can then be loaded as a model.

    >>> upscore.train("photos/", "runs/streets", model="fcn8s", callbacks=[TerminalProgress()])
    >>> upscore.load("runs/streets")

    Under torchrun, all processes train the same network. The batch size applies to each process, so that two processes
    do what one process does with twice the batch size. All need access to the same `data` and `output`.

    Args:
        data: a path or "scenes:COUNT", see `upscore.data.open_splits` (`open_instance_splits` for mask_rcnn), or a data
            set. Without `validation`, a fifth of a data set is used for validation.
        output: the run folder.
        validation: validation data, if `data` is a data set.
        model, backbone, geometry, upsampling, grouped, pixel_loss, null_background, min_side, preset: see
            `upscore.models.build`.
        weights: "imagenet", "none", a classifier's file or a model folder; see
            `upscore.training.init_weights.load_initial_weights`.
        recipe: a name in `RECIPES` (`INSTANCE_RECIPES` for mask_rcnn).
        changes: fields of the recipe to change, by name.
        epochs: number of epochs, instead of the recipe's number of images.
        geometric: add a second head for the geometric classes of the data.
        depth: how the network uses the depth of the data.
        depth_weights: model folder of a network with depth input only, the initial weights of late fusion.
        max_detections: largest number of objects found in an image; by default 1.5 times the largest number of objects
            in an image of the data, at least 100.
        head_only: train all layers except the backbone.
        max_side: longest side of an image in pixels, larger images are reduced; by default 1024, or 1333 for mask_rcnn;
            0 means never (FCN only).
        val_pattern: pattern of the validation images in a folder; see `upscore.data.open_splits`.
        precision: number format of the convolutions; "auto" measures which one is faster.
        seed: seed of initial weights, order, augmentation and sampling.
        workers: number of loader workers; by default 1 to 4.
        resume: continue the run in `output`, if there is one.
        callbacks: receive progress, losses and scores; see `upscore.training.callbacks`. Plots and TensorBoard events
            are always written.

    Returns:
        The epochs, steps and records of the run (of its last stage for `staged`).

    Raises:
        UserError: an option, the data or the output is invalid.
        KeyboardInterrupt: the run was interrupted; the state was saved for `resume`.
    """
    refuse_reading_process()
    task = task_for_model(model)
    settings = make_recipe(recipe, changes or {}, task.recipes, model)
    stages = training_stages(model, recipe)
    given = {"geometry": geometry, "upsampling": upsampling, "grouped": grouped}
    given |= {"pixel_loss": pixel_loss, "null_background": null_background}
    given |= {"geometric": geometric, "depth": depth, "depth_weights": depth_weights}
    given |= {"max_detections": max_detections, "min_side": min_side, "preset": preset}
    options = select_model_options(given, model)
    options.pop("depth_weights", None)
    check_ranges(epochs=epochs, workers=workers, max_side=max_side)
    folders = {stage: RunFolder(output if stage == model else Path(output) / stage) for stage in stages}
    process_group = ProcessGroup(accelerator())
    callback = CallbackList((RunFolderWriter(), *callbacks) if process_group.is_main_process else ())
    with process_group.synchronized():
        if process_group.is_main_process:  # check all stages before the first is trained
            for folder in folders.values():
                folder.refuse_active()
                if not resume:
                    folder.refuse_run()
        train_set, val_set = _open(task, data, val_pattern, validation)
        options = add_counts(options, train_set)
    if task is not INSTANCES:
        process_group.from_main_process(lambda: _require_labels(train_set, val_set))
    if task is INSTANCES:
        if backbone in RESNETS:
            options["norm"] = "batch" if weights == NONE else "frozen"
        if max_side is not None:
            options["max_side"] = max_side
        progress_callback = partial(callback.on_progress, "Counting objects")
        objects = process_group.from_main_process(
            lambda: max(max_objects_per_image(part, progress_callback) for part in (train_set, val_set))
        )
        if max_detections is None:
            options["max_detections"] = default_max_detections(objects)
            callback.on_log(f"max detections: {options['max_detections']} (up to {objects} objects per image)")
    config_max_side = DEFAULT_MAX_SIDE if max_side is None else max_side
    if epochs is not None:
        settings = settings.model_copy(update={"images": epochs * len(train_set), "max_epochs": epochs})

    class_weights = None
    if settings.class_weights == "median":
        progress_callback = partial(callback.on_progress, "Counting pixels")
        class_weights = process_group.from_main_process(lambda: median_frequency_weights(train_set, progress_callback))
        weights_by_class = zip(train_set.classes, class_weights, strict=True)
        callback.on_log(f"class weights: {', '.join(f'{name} {weight:.2g}' for name, weight in weights_by_class)}")

    digest = process_group.from_main_process(lambda: data_digest(train_set, val_set))
    progress = Progress()
    for stage, folder in folders.items():
        with process_group.synchronized():
            torch.manual_seed(seed)  # for layers without pretrained weights
            net = build(
                stage,
                backbone=backbone,
                num_classes=len(train_set.classes),
                pretrained=weights == IMAGENET,
                **options,
            )
            net.classes = train_set.classes
            if isinstance(net, MaskRCNN):
                net.category_ids = getattr(train_set, "category_ids", None)  # COCO data sets have them
            if isinstance(net, FCN) and class_weights is not None:
                net.class_weights = torch.tensor(class_weights)
            if isinstance(net, TwoHeads):
                net.geometric_classes = geometric_classes(train_set)
            as_built = net.backbone.depth_preprocessing
            load_initial_weights(net, weights, depth_weights if stage == stages[0] else None)
            if as_built is not None and net.backbone.depth_preprocessing is as_built:
                net.backbone.depth_preprocessing = fit_depth_preprocessing(train_set, net.preprocessing)
        stage_recipe = settings
        if len(stages) > 1:
            rate = settings.learning_rate * STAGE_RATES[stage]
            stage_recipe = settings.model_copy(update={"learning_rate": rate})
        provenance = {
            "data": str(data) if isinstance(data, str | Path) else f"{type(data).__name__} of {len(data)} images",
            "train_images": len(train_set),
            "validation_images": len(val_set),
            "data_digest": digest,
            "val_pattern": val_pattern,
            "weights": str(weights),
            **({} if depth_weights is None else {"depth_weights": str(depth_weights)}),
            "recipe_name": recipe,
            "recipe": stage_recipe.model_dump(mode="json"),
            "head_only": head_only,
            "seed": seed,
        }
        run_settings = {
            "model": stage,
            "max_side": config_max_side,
            **{name: value for name, value in net.architecture.items() if name != "name"},
            "classes": train_set.classes,
            "precision": precision,
            "epochs": epochs,
            **{name: value for name, value in provenance.items() if name not in ("recipe", "recipe_name")},
            **({"data": str(Path(data).resolve())} if _is_path(data) else {}),
            "recipe": recipe,
            **stage_recipe.model_dump(mode="json"),
        }
        choice = process_group.from_main_process(
            lambda net=net, folder=folder: _choose_precision(net, precision, folder, process_group.device, head_only)
        )
        run_settings["chosen_precision"] = choice.name
        if precision == "auto":
            callback.on_log(f"precision: {choice.name} ({choice.reason})")
        has_state = process_group.from_main_process(
            lambda folder=folder, run_settings=run_settings: folder.open(run_settings, resume=resume)
        )
        callback.on_log(
            f"{stage}: epochs: {count_epochs(stage_recipe, len(train_set))}, "
            f"steps per epoch: {count_steps(stage_recipe, len(train_set), process_group.size)}, "
            f"training images: {len(train_set)}, validation images: {len(val_set)}"
        )
        try:
            progress = fit(
                net,
                train_set,
                val_set,
                stage_recipe,
                folder,
                max_side=config_max_side,
                dtype=getattr(torch, choice.name),
                head_only=head_only,
                seed=seed,
                workers=default_workers() if workers is None else workers,
                resume=has_state,
                provenance={**provenance, "processes": process_group.size},
                callbacks=callback.callbacks,
            )
        except UserError:
            folder.discard()
            raise
        finally:
            folder.close()
        weights = folder.best
    return progress


def _choose_precision(
    net: Network, precision: Precision, folder: RunFolder, device: torch.device, head_only: bool
) -> Choice:
    """Choose the number format; a resumed run keeps that of its start."""
    chosen = folder.recorded("chosen_precision") if precision == "auto" else None
    if chosen in ("float32", "bfloat16"):
        return Choice(chosen, "as at the start of this run")
    return choose_precision(net, precision, device=device, head_only=head_only)


def _is_path(data: str | Path | Dataset) -> TypeGuard[str | Path]:
    return isinstance(data, str | Path) and parse_scenes(data) is None


def _require_labels(train: Dataset, val: Dataset) -> None:
    require_labels(train, "to train on")
    require_labels(val, "to validate on")


def _open(
    task: Task, data: str | Path | Dataset, val_pattern: str | None, validation: Dataset | None
) -> tuple[Dataset, Dataset]:
    """Open the training and validation data."""
    if not isinstance(data, str | Path):
        if val_pattern is not None:
            raise UserError(f"val_pattern={val_pattern!r} applies to folders only: give a data set as validation=")
        if validation is not None:
            return data, validation
        order = np.random.default_rng(0).permutation(len(data))
        count = max(1, round(len(data) * HELD_OUT))
        if count >= len(data):
            raise UserError(f"the data has {len(data)} image: at least one each is needed for training and validation")
        return subset(data, sorted(order[count:].tolist())), subset(data, sorted(order[:count].tolist()))
    if validation is not None:
        raise UserError(f"validation= applies to data sets only, but data={str(data)!r} is a path: use val_pattern=")
    try:
        return task.open_splits(data, val_pattern=val_pattern)
    except UserError as error:
        if task is INSTANCES or not Path(data).exists() or task_of(data) != "instances":
            raise
        raise UserError(f"{error} The labels are of instance segmentation: use --model mask_rcnn.") from error
