"""`upscore train`: train a network on labelled images."""

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
    """Train a network on labelled images.

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

    The run folder contains the model folders best/ and last/ (the path of
    the run means best/), metrics.jsonl, plots and TensorBoard events. Ctrl-C
    stops and saves the state; --resume continues and gives the same result.

    Parameters
    ----------
    data
        A folder: images/ and labels/, with or without train/ and val/;
        CamVid, PASCAL VOC, SBD, NYUDv2, SIFT Flow or PASCAL-Context; for
        mask_rcnn a folder with object ids, or COCO. Or scenes:COUNT for
        generated scenes.
    output
        The folder of the run.
    model
        fcn32s, fcn16s, fcn8s: semantic segmentation with output stride 32, 16
        or 8. fcn-pool3, fcn-pool4, fcn-pool5: scores from that feature map
        only, without the later layers.
        mask_rcnn: instance segmentation.
    backbone
        efficientnet_lite0, vgg16, alexnet, resnet18 to resnet152, or any timm
        model with strides 8, 16, 32 (and 4 for mask_rcnn).
    recipe
        modern: for few images and short training. heavy, accum, staged,
        at-once: the FCN paper's, for VGG16. paper: Mask R-CNN's.
    weights
        Initial weights: imagenet, none, a model folder, or a file with the
        classifier of the backbone as published by torchvision or timm.
    resume
        Continue the run in --output, if there is one.
    val_pattern
        Validate on the images whose names match this pattern.
    epochs
        Number of epochs; by default that of the recipe.
    batch_size
        Images per batch, and per process with torchrun; by default that of
        the recipe.
    accumulate
        Batches per optimizer step; by default that of the recipe.
    learning_rate
        By default that of the recipe.
    crop
        Side of the random crops in pixels, 0 for none; by default that of the
        recipe.
    ema
        Decay of the exponential moving average of the weights, 0 for none.
    patience
        Stop after this many epochs without a better mean IoU or mask AP, 0
        for never.
    validate_every
        Validate every this many epochs; by default 1.
    head_only
        Freeze the backbone.
    max_side
        Larger images are reduced until their longer side has this many
        pixels: by default 1024, 0 for none; 1333 for mask_rcnn.
    min_side
        mask_rcnn: images are resized until the shorter side has this many
        pixels; by default 800 for ResNets. For others, images are enlarged to
        at least 512, and larger ones are kept.
    max_detections
        mask_rcnn: maximum number of objects per image; by default 1.5 times
        the most objects in an image of the data, at least 100.
    preset
        mask_rcnn: numeric rules of the paper (the default), torchvision or
        detectron2.
    geometry
        FCNs. caffe: pad by 100 and crop, as published (vgg16). same: padding
        that keeps the scores at exactly 1/32 of the size of the image.
    upsampling
        FCNs: which transposed convolutions are learned: none (fixed), all but
        the last (intermediate), or all (learned). All start as bilinear.
    dense
        FCNs: learned upsampling with a kernel for each pair of classes.
    loss
        FCNs: softmax over the classes, or one sigmoid per class.
    null_background
        FCNs: class 0 has no score; it is predicted where no other class has a
        probability above 0.5. Needs --loss sigmoid.
    geometric
        FCNs: train a second head on the second label map of the data (scenes,
        SIFT Flow).
    depth
        FCNs, for data with depth (scenes, NYUDv2). early: depth is an input
        channel beside the colours. late: one backbone each, whose scores are
        averaged. only: depth without the image.
    depth_weights
        With --depth late: initial weights of the depth backbone, a model that
        was trained with --depth only.
    class_weights
        FCNs. median: median frequency balancing of the loss.
    patches
        FCNs: the loss covers a random share of the 32 x 32 pixel cells of
        each image; the batch size is divided by the share.
    precision
        auto: bfloat16 if it is supported and a measurement finds it faster for
        this network.
    seed
        Random seed.
    workers
        Number of processes that read images.
    """
    from upscore.console import Console
    from upscore.training.callbacks import TerminalProgress
    from upscore.training.tasks import task_for_model
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
        console.print(f"stopped; run the same command with --resume to continue ({output})")
        return 130
    if is_main_process:
        score = f"{task_for_model(model).title} {progress.best:.1%}"
        print(f"{output}: {score} on the validation images, after epoch {progress.best_epoch}")
    return 0
