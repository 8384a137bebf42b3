"""How to train: the papers' ways, and for each task one for little data and little time."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """Every setting of the optimiser and of what it is fed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    """cosine: a linear warm-up over the first twentieth of the steps, then down to zero along half a cosine. steps: a
    linear warm-up over a thousand steps, then a tenth after two thirds and a hundredth after eight ninths of all."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; AdamW has its usual (0.9, 0.999)."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """On weights alone: biases and the parameters of normalisation never decay."""
    bias_rate: float = Field(default=1, gt=0)
    """What the learning rate is multiplied by for biases."""
    score_rate: float = Field(default=1, gt=0)
    """What the learning rate is multiplied by for all layers but the backbone, which are new."""
    loss: Literal["mean", "sum"] = "mean"
    """Over the valid pixels of a batch; losses of objects are always means."""
    class_weights: Literal["none", "median"] = "none"
    """median: a pixel of a class counts as often as the median class is more frequent than this one (Eigen and Fergus,
    2015), a class's frequency being its share of the pixels of the photos that it occurs in."""
    patches: float = Field(default=1, gt=0, le=1)
    """Share of the cells of 32 x 32 pixels, drawn anew for each photo, whose loss counts (FCN section 3.4); batches and
    the number of images grow by its inverse, so that as much is learned from in each step."""
    batch_size: int = Field(default=1, ge=1)
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged before a step."""
    replacement: bool = False
    """Draw each image from all of them, instead of going through them in random order."""
    frozen_norm: bool = False
    """Use the running statistics of batch normalisation as they were loaded, and do not update them. Layers without
    loaded statistics, as in training from scratch, normalise by the batch and learn theirs all the same."""
    clip_norm: float = Field(default=0, ge=0)
    """The longest that the gradient of all parameters together may be; 0: any length."""
    images: int = Field(ge=1)
    """How many images are seen in all, unless `epochs` says otherwise."""
    max_epochs: int = Field(default=100_000, ge=1)
    """At most so many passes over a small set."""
    crop: int = Field(default=0, ge=0)
    """Side of the random crop in pixels; 0: whole images."""
    scale: tuple[float, float] | None = None
    """Range of the random change of scale."""
    flip: float = Field(default=0, ge=0, le=1)
    """Probability of a mirror image."""
    min_visible: float = Field(default=0, ge=0, le=1)
    """Objects of which a crop leaves less than this share are not trained on."""
    colour: float = Field(default=0, ge=0, le=1)
    """Strength of the random change of brightness, contrast, saturation and hue."""
    ema: float = Field(default=0, ge=0, lt=1)
    """Decay of the running average of the weights that is validated and kept; 0: none."""
    patience: int = Field(default=0, ge=0)
    """Epochs without a better score (mean IoU, or mask AP) after which training stops; 0: never."""
    validate_every: int = Field(default=1, ge=1)
    """Epochs from one validation to the next; after the last epoch there always is one."""


HEAVY = Recipe(
    learning_rate=1e-10,
    momentum=0.99,
    bias_rate=2,
    loss="sum",
    batch_size=1,
    replacement=True,
    frozen_norm=True,
    images=100_000,
)
"""FCN section 4.3: one image a step, high momentum, unnormalised loss, no augmentation. The rate is that of FCN-32s on
VGG16; 16s and 8s, started from the coarser net, take a hundredth and a ten-thousandth of it."""

ACCUM = HEAVY.model_copy(
    update={
        "loss": "mean",
        "learning_rate": 1e-4,
        "momentum": 0.9,
        "batch_size": 1,
        "accumulate": 20,
        "images": 200_000,
    }
)
"""The first version's regime: gradients of 20 images, momentum 0.9, normalised loss (FCN section 4.3, table 2)."""

MODERN = Recipe(
    optimizer="adamw",
    learning_rate=5e-4,
    schedule="cosine",
    weight_decay=0.02,
    score_rate=4,
    batch_size=4,
    images=9_000,
    max_epochs=200,
    crop=320,
    scale=(0.5, 2.0),
    flip=0.5,
    colour=0.3,
    ema=0.998,
    patience=20,
)
"""For a few hundred photos and a laptop: AdamW along a cosine, crops of jittered scale and colour, averaged weights."""

MODERN_INSTANCES = Recipe(
    optimizer="adamw",
    learning_rate=5e-4,
    schedule="cosine",
    weight_decay=0.02,
    score_rate=2,
    batch_size=2,
    frozen_norm=True,
    clip_norm=5,
    images=4_000,
    max_epochs=200,
    crop=512,
    scale=(0.6, 1.7),
    flip=0.5,
    min_visible=0.1,
    colour=0.3,
    ema=0.998,
    validate_every=2,
)
"""As `MODERN`, for objects: larger crops, and two photos a step, for each has hundreds of regions to learn from."""

MASK_RCNN_PAPER = Recipe(
    learning_rate=2.5e-3,
    schedule="steps",
    weight_decay=1e-4,
    batch_size=2,
    frozen_norm=True,
    images=90_000 * 16,
    flip=0.5,
)
"""Mask R-CNN section 3.1 (rate 0.02, momentum 0.9, decay 1e-4), with the rate for 2 photos a step instead of 16 and the
schedule of 90,000 steps that later became the usual one."""

RECIPES = {"modern": MODERN, "heavy": HEAVY, "accum": ACCUM, "staged": HEAVY, "at-once": HEAVY}
"""`staged` trains FCN-32s, then 16s, then 8s, each from the one before; `at-once` is for fcn8s-atonce (section 4.3)."""

INSTANCE_RECIPES = {"modern": MODERN_INSTANCES, "paper": MASK_RCNN_PAPER}
"""Of Mask R-CNN."""

STAGE_RATES = {"fcn32s": 1.0, "fcn16s": 1e-2, "fcn8s": 1e-4}
"""What the heavy learning rate is multiplied by in each stage (the released solvers)."""
