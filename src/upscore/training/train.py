"""From labelled photos to a model folder: data, network, recipe, stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from upscore.checkpoints.card import DEFAULT_MAX_SIDE
from upscore.data.datasets import Dataset, geometric_classes
from upscore.data.instance_datasets import task_of
from upscore.errors import UserError
from upscore.models.build import build
from upscore.models.detectors import ProfileName
from upscore.models.fcn import FCN, PixelLoss, Upsampling
from upscore.models.precision import Precision, resolve_precision
from upscore.models.resnet_options import RESNETS
from upscore.models.rgbd import Fusion
from upscore.models.two_heads import TwoHeads
from upscore.models.vgg import Geometry
from upscore.training.arguments import changed, check_ranges, own_options, stages_to
from upscore.training.callbacks import Callback, CallbackList, RunFolderWriter
from upscore.training.class_weights import median_frequency_weights
from upscore.training.counting import enough_detections, most_objects
from upscore.training.depth import fitting_depth
from upscore.training.feed import default_workers
from upscore.training.loop import fit
from upscore.training.modalities import with_counts
from upscore.training.recipes import STAGE_RATES
from upscore.training.run_folder import RunFolder
from upscore.training.start import IMAGENET, NONE, start_from
from upscore.training.tasks import INSTANCES, Task, task_named
from upscore.training.team import Team, accelerator, connected
from upscore.training.trainer import Progress


@connected()
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
    geometry: Geometry | None = None,
    upsampling: Upsampling | None = None,
    grouped: bool | None = None,
    pixel_loss: PixelLoss | None = None,
    null_background: bool | None = None,
    geometric: bool | None = None,
    depth: Fusion | None = None,
    depth_weights: str | Path | None = None,
    detections: int | None = None,
    min_side: int | None = None,
    profile: ProfileName | None = None,
    head_only: bool = False,
    max_side: int | None = None,
    holdout: str | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    workers: int | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Progress:
    """Train a network on labelled photos into a run folder, which then stands for its best model.

    Processes that torchrun has started train it together: a batch's size is that of each one's, so that two of them do
    what one does with twice the batch. All must see the same `data` and `output`.

    Args:
        data: see `upscore.data.open_splits` (`open_instance_splits` for mask_rcnn), which `holdout` goes to.
        model, backbone, geometry, upsampling, grouped, pixel_loss, null_background, min_side, profile: see
            `upscore.models.build`.
        geometric: a second head learns the geometric classes of the data.
        depth: where the depth of the data comes in; `depth_weights` is a model folder of a network of depth alone, from
            which late fusion starts, as it does from `weights` for the photos.
        detections: the most objects found in a photo; by default, more than the fullest photo of the data has.
        weights: "imagenet", "none", or what `upscore.training.start.start_from` takes.
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
    task = task_named(model)
    settings = changed(recipe, changes or {}, task.recipes, model)
    stages = stages_to(model, recipe)
    given = {"geometry": geometry, "upsampling": upsampling, "grouped": grouped}
    given |= {"pixel_loss": pixel_loss, "null_background": null_background}
    given |= {"geometric": geometric, "depth": depth, "depth_weights": depth_weights}
    given |= {"detections": detections, "min_side": min_side, "profile": profile}
    options = own_options(given, model)
    options.pop("depth_weights", None)
    check_ranges(epochs=epochs, workers=workers, max_side=max_side)
    folders = {stage: RunFolder(output if stage == model else Path(output) / stage) for stage in stages}
    team = Team(accelerator())
    callback = CallbackList((RunFolderWriter(), *callbacks) if team.leads else ())
    with team.together():
        if not resume and team.leads:  # of any stage, before the first is trained
            for folder in folders.values():
                folder.refuse_run()
        train_set, val_set = _open(task, data, holdout)
        options = with_counts(options, train_set)
    if task is INSTANCES:
        if backbone in RESNETS:
            options["norm"] = "batch" if weights == NONE else "frozen"
        if max_side is not None:
            options["max_side"] = max_side
        if detections is None:
            counted = partial(callback.on_progress, "Counting objects")
            objects = team.from_lead(lambda: max(most_objects(part, counted) for part in (train_set, val_set)))
            options["detections"] = enough_detections(objects)
            callback.on_log(f"detections per image: {options['detections']} (up to {objects} objects in the data)")
    seen_side = DEFAULT_MAX_SIDE if max_side is None else max_side
    if epochs is not None:
        settings = settings.model_copy(update={"images": epochs * len(train_set), "max_epochs": epochs})

    class_weights = None
    if settings.class_weights == "median":
        counted = partial(callback.on_progress, "Counting pixels")
        class_weights = team.from_lead(lambda: median_frequency_weights(train_set, counted))
        weighed = zip(train_set.classes, class_weights, strict=True)
        callback.on_log(f"class weights: {', '.join(f'{name} {weight:.2g}' for name, weight in weighed)}")

    progress = Progress()
    for stage, folder in folders.items():
        with team.together():
            torch.manual_seed(seed)  # the weights of layers that start from none
            net = build(
                stage,
                backbone=backbone,
                num_classes=len(train_set.classes),
                pretrained=weights == IMAGENET,
                **options,
            )
            net.classes = train_set.classes
            if isinstance(net, FCN) and class_weights is not None:
                net.class_weights = torch.tensor(class_weights)
            if isinstance(net, TwoHeads):
                net.geometric_classes = geometric_classes(train_set)
            as_built = net.trunk.depth_preprocessing
            start_from(net, weights, depth_weights if stage == stages[0] else None)
            if as_built is not None and net.trunk.depth_preprocessing is as_built:
                net.trunk.depth_preprocessing = fitting_depth(train_set, net.preprocessing)
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
            **({} if depth_weights is None else {"depth_weights": str(depth_weights)}),
            "recipe_name": recipe,
            "recipe": stage_recipe.model_dump(mode="json"),
            "head_only": head_only,
            "seed": seed,
        }
        asked = {
            "model": stage,
            "max_side": seen_side,
            **{name: value for name, value in net.architecture.items() if name != "name"},
            "classes": train_set.classes,
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
            max_side=seen_side,
            dtype=team.from_lead(lambda net=net: resolve_precision(net, precision)),
            head_only=head_only,
            seed=seed,
            workers=default_workers() if workers is None else workers,
            resume=team.from_lead(lambda folder=folder, asked=asked: folder.open(asked, resume=resume)),
            provenance={**provenance, "processes": team.size},
            callbacks=callback.callbacks,
        )
        weights = folder.best
    return progress


def _open(task: Task, data: str | Path, holdout: str | None) -> tuple[Dataset, Dataset]:
    """What to train on and what to validate on; labels of objects are told to who asked for a network of classes."""
    try:
        return task.open_splits(data, holdout=holdout)
    except UserError as error:
        if task is INSTANCES or not Path(data).exists() or task_of(data) != "instances":
            raise
        raise UserError(f"{error} These are labels of objects one by one, which --model mask_rcnn learns.") from error
