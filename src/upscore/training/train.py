"""From labelled photos to a model folder: data, network, recipe, stages."""

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
    enough_detections,
    fitting_depth,
    median_frequency_weights,
    most_objects,
    require_labels,
)
from upscore.training.init_weights import IMAGENET, NONE, start_from
from upscore.training.loader import default_workers, refuse_reading_process
from upscore.training.loop import fit
from upscore.training.options import changed, check_ranges, own_options, stages_to, with_counts
from upscore.training.precision import choose_precision
from upscore.training.recipes import STAGE_RATES
from upscore.training.run_folder import RunFolder
from upscore.training.tasks import INSTANCES, Network, Task, task_named
from upscore.training.trainer import Progress

HELD_OUT = 0.2
"""Share of a data set's images that is validated on."""


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
    """Train a network on labelled images into a run folder, which then stands for its best model.

    >>> upscore.train("photos/", "runs/streets", model="fcn8s", callbacks=[TerminalProgress()])
    >>> upscore.load("runs/streets")

    Processes that torchrun has started train it together: a batch's size is that of each one's, so that two of them do
    what one does with twice the batch. All must see the same `data` and `output`.

    Args:
        data: a path or "scenes:COUNT", see `upscore.data.open_splits` (`open_instance_splits` for mask_rcnn), which
            `val_pattern` goes to; or a data set, of which a fifth is held out where no `validation` is given.
        output: the run folder.
        validation: what to validate on, where `data` is a data set.
        model, backbone, geometry, upsampling, grouped, pixel_loss, null_background, min_side, preset: see
            `upscore.models.build`.
        geometric: a second head learns the geometric classes of the data.
        depth: where the depth of the data comes in; `depth_weights` is a model folder of a network of depth alone, from
            which late fusion starts, as it does from `weights` for the photos.
        detections: the most objects found in a photo; by default, more than the fullest photo of the data has.
        weights: "imagenet", "none", or what `upscore.training.init_weights.start_from` takes.
        recipe: a name in `RECIPES` (`INSTANCE_RECIPES` for mask_rcnn); `changes` replaces some of its fields.
        epochs: passes over the training images, instead of the recipe's number of images.
        head_only: train all but the backbone, which stays as it is.
        max_side: larger photos are reduced to it; by default 1024 pixels, or 1333 for mask_rcnn; 0: never (FCNs alone).
        resume: go on where the run in `output` stands, if one is there.
        callbacks: receive progress, losses and scores; see `upscore.training.callbacks`. The plots and TensorBoard's
            events are written without being asked for.

    Raises:
        UserError: something that was asked for can't be done.
        KeyboardInterrupt: the state was saved, and `resume` goes on from it.
    """
    refuse_reading_process()
    task = task_named(model)
    settings = changed(recipe, changes or {}, task.recipes, model)
    stages = stages_to(model, recipe)
    given = {"geometry": geometry, "upsampling": upsampling, "grouped": grouped}
    given |= {"pixel_loss": pixel_loss, "null_background": null_background}
    given |= {"geometric": geometric, "depth": depth, "depth_weights": depth_weights}
    given |= {"max_detections": max_detections, "min_side": min_side, "preset": preset}
    options = own_options(given, model)
    options.pop("depth_weights", None)
    check_ranges(epochs=epochs, workers=workers, max_side=max_side)
    folders = {stage: RunFolder(output if stage == model else Path(output) / stage) for stage in stages}
    process_group = ProcessGroup(accelerator())
    callback = CallbackList((RunFolderWriter(), *callbacks) if process_group.is_main_process else ())
    with process_group.synchronized():
        if not resume and process_group.is_main_process:  # of any stage, before the first is trained
            for folder in folders.values():
                folder.refuse_run()
        train_set, val_set = _open(task, data, val_pattern, validation)
        options = with_counts(options, train_set)
    if task is not INSTANCES:
        process_group.from_main_process(lambda: _require_labels(train_set, val_set))
    if task is INSTANCES:
        if backbone in RESNETS:
            options["norm"] = "batch" if weights == NONE else "frozen"
        if max_side is not None:
            options["max_side"] = max_side
        counted = partial(callback.on_progress, "Counting objects")
        objects = process_group.from_main_process(
            lambda: max(most_objects(part, counted) for part in (train_set, val_set))
        )
        if max_detections is None:
            options["max_detections"] = enough_detections(objects)
            callback.on_log(f"detections per image: {options['max_detections']} (up to {objects} objects in the data)")
    seen_side = DEFAULT_MAX_SIDE if max_side is None else max_side
    if epochs is not None:
        settings = settings.model_copy(update={"images": epochs * len(train_set), "max_epochs": epochs})

    class_weights = None
    if settings.class_weights == "median":
        counted = partial(callback.on_progress, "Counting pixels")
        class_weights = process_group.from_main_process(lambda: median_frequency_weights(train_set, counted))
        weighed = zip(train_set.classes, class_weights, strict=True)
        callback.on_log(f"class weights: {', '.join(f'{name} {weight:.2g}' for name, weight in weighed)}")

    digest = process_group.from_main_process(lambda: data_digest(train_set, val_set))
    progress = Progress()
    for stage, folder in folders.items():
        with process_group.synchronized():
            torch.manual_seed(seed)  # the weights of layers that start from none
            net = build(
                stage,
                backbone=backbone,
                num_classes=len(train_set.classes),
                pretrained=weights == IMAGENET,
                **options,
            )
            net.classes = train_set.classes
            if isinstance(net, MaskRCNN):
                net.category_ids = getattr(train_set, "category_ids", None)  # of a COCO data set
            if isinstance(net, FCN) and class_weights is not None:
                net.class_weights = torch.tensor(class_weights)
            if isinstance(net, TwoHeads):
                net.geometric_classes = geometric_classes(train_set)
            as_built = net.backbone.depth_preprocessing
            start_from(net, weights, depth_weights if stage == stages[0] else None)
            if as_built is not None and net.backbone.depth_preprocessing is as_built:
                net.backbone.depth_preprocessing = fitting_depth(train_set, net.preprocessing)
        stage_recipe = settings
        if len(stages) > 1:
            rate = settings.learning_rate * STAGE_RATES[stage]
            stage_recipe = settings.model_copy(update={"learning_rate": rate})
        provenance = {
            "data": str(data) if isinstance(data, str | Path) else f"{type(data).__name__} of {len(data)} images",
            "train_images": len(train_set),
            "validation_images": len(val_set),
            "val_pattern": val_pattern,
            "weights": str(weights),
            **({} if depth_weights is None else {"depth_weights": str(depth_weights)}),
            "recipe_name": recipe,
            "recipe": stage_recipe.model_dump(mode="json"),
            "head_only": head_only,
            "seed": seed,
        }
        asked = {
            "model": stage,
            "data_digest": digest,
            "max_side": seen_side,
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
        asked["chosen_precision"] = choice.name
        if precision == "auto":
            callback.on_log(f"precision: {choice.name} ({choice.reason})")
        begun = process_group.from_main_process(lambda folder=folder, asked=asked: folder.open(asked, resume=resume))
        try:
            progress = fit(
                net,
                train_set,
                val_set,
                stage_recipe,
                folder,
                max_side=seen_side,
                dtype=getattr(torch, choice.name),
                head_only=head_only,
                seed=seed,
                workers=default_workers() if workers is None else workers,
                resume=begun,
                provenance={**provenance, "processes": process_group.size},
                callbacks=callback.callbacks,
            )
        except UserError:
            folder.discard()
            raise
        weights = folder.best
    return progress


def _choose_precision(
    net: Network, precision: Precision, folder: RunFolder, device: torch.device, head_only: bool
) -> Choice:
    """The number format; a run that is resumed keeps the one that it was started with."""
    chosen = folder.recorded("chosen_precision") if precision == "auto" else None
    if chosen in ("float32", "bfloat16"):
        return Choice(chosen, "as this run was started")
    return choose_precision(net, precision, device=device, head_only=head_only)


def _is_path(data: str | Path | Dataset) -> TypeGuard[str | Path]:
    return isinstance(data, str | Path) and parse_scenes(data) is None


def _require_labels(train: Dataset, val: Dataset) -> None:
    require_labels(train, "to train on")
    require_labels(val, "to validate on")


def _open(
    task: Task, data: str | Path | Dataset, val_pattern: str | None, validation: Dataset | None
) -> tuple[Dataset, Dataset]:
    """The data sets to train and to validate on."""
    if not isinstance(data, str | Path):
        if val_pattern is not None:
            raise UserError(f"val_pattern={val_pattern!r}: is for a folder; give the images to hold out as validation=")
        if validation is not None:
            return data, validation
        order = np.random.default_rng(0).permutation(len(data))
        count = max(1, round(len(data) * HELD_OUT))
        if count >= len(data):
            raise UserError(f"{len(data)} image is too few: training and validation need one each")
        return subset(data, sorted(order[count:].tolist())), subset(data, sorted(order[:count].tolist()))
    if validation is not None:
        raise UserError("validation= is for a data set; of a path, its own split or --val-pattern is validated on")
    try:
        return task.open_splits(data, val_pattern=val_pattern)
    except UserError as error:
        if task is INSTANCES or not Path(data).exists() or task_of(data) != "instances":
            raise
        raise UserError(f"{error} These are labels of objects one by one, which --model mask_rcnn learns.") from error
