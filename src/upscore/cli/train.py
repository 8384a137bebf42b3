"""`upscore train`: labelled photos become a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Flag = Parameter(negative=())


def train(
    data: str,
    /,
    *,
    output: Path,
    model: Literal[
        "fcn8s", "fcn16s", "fcn32s", "fcn8s-atonce", "fcn-pool5", "fcn-pool4", "fcn-pool3", "mask_rcnn"
    ] = "fcn8s",
    backbone: str = "efficientnet_lite0",
    recipe: Literal["modern", "heavy", "accum", "staged", "at-once", "paper"] = "modern",
    weights: str = "imagenet",
    resume: Annotated[bool, Flag] = False,
    val_pattern: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    learning_rate: float | None = None,
    crop: int | None = None,
    ema: float | None = None,
    patience: int | None = None,
    validate_every: int | None = None,
    head_only: Annotated[bool, Flag] = False,
    max_side: int | None = None,
    min_side: int | None = None,
    max_detections: int | None = None,
    preset: Literal["paper", "torchvision", "detectron2"] | None = None,
    geometry: Literal["same", "caffe"] | None = None,
    upsampling: Literal["fixed", "intermediate", "learned"] | None = None,
    dense: Annotated[bool, Flag] = False,
    loss: Literal["softmax", "sigmoid"] | None = None,
    null_background: Annotated[bool, Flag] = False,
    geometric: Annotated[bool, Flag] = False,
    depth: Literal["early", "late", "only"] | None = None,
    depth_weights: Path | None = None,
    class_weights: Literal["none", "median"] | None = None,
    patches: float | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
    workers: int | None = None,
) -> int:
    """Train a network on labelled photos.

    ```
    upscore train photos/ --output runs/mine
    upscore train photos/ --output runs/mine --resume
    upscore train camvid/ --val-pattern "0006R0*" --output runs/streets
    upscore train voc/ --model fcn8s --backbone vgg16 --geometry caffe \\
        --recipe staged --weights vgg16.pth --output runs/paper
    upscore train scenes:400 --epochs 10 --output runs/scenes
    upscore train nuclei/ --model mask_rcnn --output runs/nuclei
    upscore train cars/ --model mask_rcnn --backbone resnet50 \\
        --recipe paper --output runs/cars
    torchrun --nproc-per-node 2 -m upscore train camvid/ --output runs/two
    ```

    The folder it writes holds best/ and last/, two model folders (the run's
    own path stands for its best), metrics.jsonl, plots and TensorBoard's
    events. Ctrl-C saves; --resume goes on from there, to
    the same result.

    Parameters
    ----------
    data
        A folder: images/ and labels/, with or without train/ and val/;
        CamVid; PASCAL VOC. Or scenes:COUNT for generated scenes. mask_rcnn
        needs labels that tell the objects apart.
    output
        The folder of the run.
    model
        fcn: which class is each pixel; scores every 8, 16 or 32 pixels.
        fcn-pool: one map alone, without the layers after it.
        mask_rcnn: which object is each pixel part of.
    backbone
        The classifier it is made of: efficientnet_lite0, vgg16, alexnet,
        resnet18 to resnet152, or any of timm's that has strides 8, 16, 32
        (and 4 for mask_rcnn).
    recipe
        modern: for few photos and a laptop. heavy, accum, staged, at-once:
        the FCN paper's own, for VGG16 and patience. paper: Mask R-CNN's own.
    weights
        Where to start: imagenet, none, a model folder, or a file with the
        backbone's classifier as torchvision or timm publish it.
    resume
        Go on with the run in --output, if there is one.
    val_pattern
        Validate on the photos whose names match this pattern.
    epochs
        Passes over the photos; by default as the recipe has it.
    batch_size
        Photos in a batch, of each process where torchrun starts several; by
        default as the recipe has it.
    accumulate
        Batches in a step; by default as the recipe has it.
    learning_rate
        By default as the recipe has it.
    crop
        Side of the random crops, 0 for none; by default as the recipe has it.
    ema
        Decay of the average of the weights, 0 for none.
    patience
        Stop after this many epochs without a better mean IU or mask AP, 0
        for never.
    validate_every
        Epochs from one validation to the next; by default 1.
    head_only
        Train all but the backbone.
    max_side
        Larger photos are reduced to this many pixels: by default 1024, 0 for
        none; 1333 for mask_rcnn.
    min_side
        mask_rcnn: the shorter side becomes this many pixels; by default 800
        for ResNets, and at least 512 for other backbones.
    max_detections
        mask_rcnn: the most objects found in a photo; by default half as
        many again as the fullest photo of the data has, at least 100.
    preset
        mask_rcnn: the rules of the paper (the default) or of a code base.
    geometry
        FCNs. caffe: pad by 100 and crop, as published (vgg16). same: scores at
        exactly 1/32.
    upsampling
        FCNs: which transposed convolutions are learned: none of them, all but
        the last, or all. They start out bilinear.
    dense
        FCNs: learned upsampling with a kernel for each pair of classes.
    loss
        FCNs: softmax over the classes, or sigmoid: yes or no for each class.
    null_background
        FCNs: class 0 gets no score of its own; a pixel is of it where no other
        class is more likely than not. Needs --loss sigmoid.
    geometric
        FCNs: a second head learns the second label map of the data (scenes,
        SIFT Flow).
    depth
        FCNs, where the data has depth (scenes, NYUDv2). early: the first
        convolution sees it beside the colours. late: a backbone for each,
        whose scores are averaged. only: the depth without the photo.
    depth_weights
        --depth late: a model trained with --depth only to start from, as from
        --weights for the photos.
    class_weights
        FCNs. median: rare classes count more in the loss, frequent ones less.
    patches
        FCNs: the share of the 32 x 32 pixel cells, drawn anew for each photo,
        whose labels count; batches grow by its inverse.
    precision
        auto: bfloat16 where processor and network gain from it.
    seed
        The same seed gives the same weights.
    workers
        Processes that read photos.
    """
    from upscore.console import Console
    from upscore.training.callbacks import TerminalProgress
    from upscore.training.tasks import task_named
    from upscore.training.train import train as run

    changes = {
        "batch_size": batch_size,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "crop": crop,
        "ema": ema,
        "patience": patience,
        "validate_every": validate_every,
        "class_weights": class_weights,
        "patches": patches,
    }
    is_main_process = "LOCAL_RANK" not in os.environ or os.environ["RANK"] == "0"  # torchrun sets both for each process
    console = Console(stderr=True, quiet=not is_main_process)
    try:
        progress = run(
            data,
            output,
            model=model,
            backbone=backbone,
            weights=weights,
            recipe=recipe,
            changes={name: value for name, value in changes.items() if value is not None},
            epochs=epochs,
            geometry=geometry,
            upsampling=upsampling,
            grouped=False if dense else None,
            pixel_loss=loss,
            null_background=null_background or None,
            geometric=geometric or None,
            depth=depth,
            depth_weights=depth_weights,
            max_detections=max_detections,
            min_side=min_side,
            preset=preset,
            head_only=head_only,
            max_side=max_side,
            val_pattern=val_pattern,
            precision=precision,
            seed=seed,
            workers=workers,
            resume=resume,
            callbacks=[TerminalProgress(console)],
        )
    except KeyboardInterrupt:
        console.print(f"stopped; the same command with --resume goes on from here ({output})")
        return 130
    if is_main_process:
        score = f"{task_named(model).title} {progress.best:.1%}"
        print(f"{output}: {score} on the validation photos, after epoch {progress.best_epoch}")
    return 0
