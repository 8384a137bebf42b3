"""How to train: the paper's ways, and one for little data and little time."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """Every setting of the optimiser and of what it is fed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: a linear warm-up over the first twentieth of the steps, then down to zero along half a cosine."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; AdamW has its usual (0.9, 0.999)."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """On weights alone: biases and the parameters of normalisation never decay."""
    bias_rate: float = Field(default=1, gt=0)
    """What the learning rate is multiplied by for biases."""
    score_rate: float = Field(default=1, gt=0)
    """What the learning rate is multiplied by for the score layers, which are new."""
    loss: Literal["mean", "sum"] = "mean"
    """Over the valid pixels of a batch."""
    batch_size: int = Field(default=1, ge=1)
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged before a step."""
    replacement: bool = False
    """Draw each image from all of them, instead of going through them in random order."""
    frozen_norm: bool = False
    """Leave the running statistics of batch normalisation as the classifier had them."""
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
    colour: float = Field(default=0, ge=0, le=1)
    """Strength of the random change of brightness, contrast, saturation and hue."""
    ema: float = Field(default=0, ge=0, lt=1)
    """Decay of the running average of the weights that is validated and kept; 0: none."""
    patience: int = Field(default=0, ge=0)
    """Epochs without a better mean IU after which training stops; 0: never."""


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

RECIPES = {"modern": MODERN, "heavy": HEAVY, "accum": ACCUM, "staged": HEAVY, "at-once": HEAVY}
"""`staged` trains FCN-32s, then 16s, then 8s, each from the one before; `at-once` is for fcn8s-atonce (section 4.3)."""

STAGE_RATES = {"fcn32s": 1.0, "fcn16s": 1e-2, "fcn8s": 1e-4}
"""What the heavy learning rate is multiplied by in each stage (the released solvers)."""
