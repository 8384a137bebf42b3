"""Recipes: the training settings of the papers, and default settings for small data sets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """Settings of the optimiser, the loss, the augmentation and the length of training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    """Learning rate schedule. cosine: linear warm-up over the first 5 % of the steps, then half a cosine down to zero.
    steps: linear warm-up over 1000 steps, then divided by 10 after 2/3 and again after 8/9 of the steps."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD; AdamW has betas (0.9, 0.999)."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay; biases and normalisation parameters have none."""
    bias_rate: float = Field(default=1, gt=0)
    """Factor of the learning rate for biases."""
    score_rate: float = Field(default=1, gt=0)
    """Factor of the learning rate for all layers outside the backbone, which are not pretrained."""
    loss: Literal["mean", "sum"] = "mean"
    """Reduction of the pixel loss over the valid pixels of a batch; losses of objects are always means."""
    class_weights: Literal["none", "median"] = "none"
    """Weights of the classes in the pixel loss. median: the median of the class frequencies divided by the frequency of
    the class (Eigen and Fergus, 2015); the frequency is the fraction of pixels within images that contain the class."""
    patches: float = Field(default=1, gt=0, le=1)
    """Fraction of the 32 x 32 cells of each image, drawn at random, whose loss counts (FCN section 3.4). Batch size and
    number of images are divided by it, so that the number of pixels per step stays the same."""
    batch_size: int = Field(default=1, ge=1)
    """Number of images per batch and process."""
    accumulate: int = Field(default=1, ge=1)
    """Number of batches whose gradients are averaged for one step."""
    replacement: bool = False
    """Draw images with replacement instead of shuffling them."""
    frozen_norm: bool = False
    """Use the loaded running statistics of batch normalisation and do not update them. Layers without loaded
    statistics, as in training from scratch, still use batch statistics."""
    clip_norm: float = Field(default=0, ge=0)
    """Largest norm of the gradient of all parameters; 0 means no limit."""
    images: int = Field(ge=1)
    """Total number of training images, counting repetitions; the option `epochs` replaces it."""
    max_epochs: int = Field(default=100_000, ge=1)
    """Largest number of epochs, which limits `images` for small data sets."""
    crop: int = Field(default=0, ge=0)
    """Side of the random crop in pixels; 0 means whole images."""
    scale: tuple[float, float] | None = None
    """Range of the random scale factor."""
    flip: float = Field(default=0, ge=0, le=1)
    """Probability of a horizontal flip."""
    min_visible: float = Field(default=0, ge=0, le=1)
    """Smallest visible fraction of an object in a crop; other objects are not trained on."""
    colour: float = Field(default=0, ge=0, le=1)
    """Strength of the random change of brightness, contrast, saturation and hue."""
    ema: float = Field(default=0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is validated and saved; 0 means none."""
    patience: int = Field(default=0, ge=0)
    """Number of epochs without a better score (mean IoU, or mask AP) after which training stops; 0 means never."""
    validate_every: int = Field(default=1, ge=1)
    """Number of epochs between validations; the last epoch is always validated."""


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
"""FCN section 4.3: one image per step, high momentum, unnormalised loss, no augmentation. The learning rate is that of
FCN-32s with VGG16; FCN-16s and FCN-8s, which start from the coarser network, use 1/100 and 1/10,000 of it."""

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
"""Training of the paper's first version: 20 images per step, momentum 0.9, normalised loss (FCN section 4.3, table
2)."""

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
"""Default for small data sets: AdamW, cosine schedule, random crops, scales and colours, averaged weights."""

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
"""`MODERN` for Mask R-CNN: larger crops and two images per step, since each image has hundreds of regions."""

MASK_RCNN_PAPER = Recipe(
    learning_rate=2.5e-3,
    schedule="steps",
    weight_decay=1e-4,
    batch_size=2,
    frozen_norm=True,
    images=90_000 * 16,
    flip=0.5,
)
"""Mask R-CNN section 3.1 (learning rate 0.02, momentum 0.9, weight decay 1e-4), with the learning rate scaled from 16
to 2 images per step, and Detectron's schedule of 90,000 steps."""

RECIPES = {"modern": MODERN, "heavy": HEAVY, "accum": ACCUM, "staged": HEAVY, "at-once": HEAVY}
"""Recipes of FCN. `staged` trains FCN-32s, FCN-16s and FCN-8s in turn, each from the one before; `at-once` is for
fcn8s-atonce (section 4.3)."""

INSTANCE_RECIPES = {"modern": MODERN_INSTANCES, "paper": MASK_RCNN_PAPER}
"""Recipes of Mask R-CNN."""

STAGE_RATES = {"fcn32s": 1.0, "fcn16s": 1e-2, "fcn8s": 1e-4}
"""Factor of the learning rate in each stage of `staged` (the released solvers)."""
