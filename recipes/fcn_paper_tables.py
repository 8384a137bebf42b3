"""Networks, data sets and scores of tables 3, 5, 6 and 7 of the FCN paper (journal version).

Settings that the paper does not state are those of the released solvers: constant rates, one image per step, momentum
0.99, 100,000 images drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal

IMAGES = 100_000
COARSE, MIDDLE, FINE = 1e-10, 1e-12, 1e-14
"""Learning rates of FCN-32s, and of FCN-16s and FCN-8s that start from it."""

SCORES = ("pixel acc.", "mean acc.", "mean IoU", "f.w. IoU")
GEOMETRIC = "geometric acc."

LOG_DEPTH, HHA = 1, 3
DEPTH_MEANS = {LOG_DEPTH: (7.844 - log(1000),), HHA: (132.431, 94.076, 118.477)}
"""Number of depth channels -> means over NYUDv2 in the released code, which uses the logarithm of millimetres."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network of a table."""

    title: str
    model: str
    paper: tuple[float, ...]
    """Published scores in per cent, in the order of the columns."""
    rate: float = COARSE
    images: int = IMAGES
    after: str | None = None
    """Row with the initial weights."""
    depth_after: str | None = None
    """Row with the initial weights of the depth backbone."""
    depth: Literal["early", "late", "only"] | None = None
    depth_channels: Literal[1, 3] | None = None
    head_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: networks on one data set."""

    title: str
    about: str
    train: str
    """Training split; "trainval" is "train" if there is no validation split."""
    test: str
    """Test split."""
    mean: tuple[float, float, float]
    """RGB mean that the released code subtracts."""
    rows: Mapping[str, Row]
    geometric: bool = False
    """Whether networks have two heads; the pixel accuracy of the geometric head is the fifth score."""
    present: bool = False
    """Compute mean IoU over the classes in the test set only."""
    without_background: bool = False
    """Also report the scores without class 0."""


VOC_MEAN = (122.67892, 116.66877, 104.00699)

TABLES = {
    "table3": Table(
        title="FCN's table 3: strides, staged or at once, frozen features, single maps (PASCAL VOC 2011)",
        about="""\
Trained on the 8,498 images of SBD's `train.txt`, scored on VOC 2011's `val` without these (736 images, the authors'
`seg11valid.txt`). In the paper, FCN-8s took 36 hours staged, and half of it at once, on a Titan X.""",
        train="train",
        test="val",
        mean=VOC_MEAN,
        rows={
            "fcn32s": Row(title="FCN-32s", model="fcn32s", paper=(90.5, 76.5, 63.6, 83.5)),
            "fcn16s": Row(title="FCN-16s", model="fcn16s", paper=(91.0, 78.1, 65.0, 84.3), rate=MIDDLE, after="fcn32s"),
            "fcn8s-atonce": Row(
                title="FCN-8s at once", model="fcn8s-atonce", paper=(91.1, 78.5, 65.4, 84.4), images=3 * IMAGES
            ),
            "fcn8s": Row(
                title="FCN-8s staged", model="fcn8s", paper=(91.2, 77.6, 65.5, 84.5), rate=FINE, after="fcn16s"
            ),
            "fixed": Row(title="FCN-32s fixed", model="fcn32s", paper=(82.9, 64.6, 46.6, 72.3), head_only=True),
            "pool5": Row(title="FCN-pool5", model="fcn-pool5", paper=(87.4, 60.5, 50.0, 78.5)),
            "pool4": Row(title="FCN-pool4", model="fcn-pool4", paper=(78.7, 31.7, 22.4, 67.0)),
            "pool3": Row(title="FCN-pool3", model="fcn-pool3", paper=(70.9, 13.7, 9.2, 57.6)),
        },
    ),
    "table5": Table(
        title="FCN's table 5: colours and depth (NYUDv2, 40 classes)",
        about="""\
Trained on the 795 images of `train.txt` and `val.txt`, scored on the 654 of `test.txt`. The paper does not state the
training time. *early*: the logarithm of the depth is a fourth channel. *late*: the mean of two trained networks; the
authors used those after 28,000 (RGB) and 60,000 images (HHA).""",
        train="trainval",
        test="test",
        mean=(92.318, 97.203, 116.190),
        rows={
            "rgb": Row(title="FCN-32s RGB", model="fcn32s", paper=(61.8, 44.7, 31.6, 46.0)),
            "rgbd": Row(
                title="FCN-32s RGB-D, early",
                model="fcn32s",
                paper=(62.1, 44.8, 31.7, 46.3),
                depth="early",
                depth_channels=LOG_DEPTH,
            ),
            "hha": Row(
                title="FCN-32s HHA",
                model="fcn32s",
                paper=(58.3, 35.7, 25.2, 41.7),
                depth="only",
                depth_channels=HHA,
            ),
            "late": Row(
                title="FCN-32s RGB-HHA, late",
                model="fcn32s",
                paper=(65.3, 44.0, 33.3, 48.6),
                rate=MIDDLE,
                after="rgb",
                depth_after="hha",
                depth="late",
                depth_channels=HHA,
            ),
        },
    ),
    "table6": Table(
        title="FCN's table 6: semantic and geometric classes (SIFT Flow)",
        about="""\
Trained on all images except the 200 of the test set and two without labels, scored on the 200. The networks have 33
semantic classes; the mean is over the 30 in the test set. The row of FCN-16s is from the first version of the paper.
The training time is not stated.""",
        train="trainval",
        test="test",
        mean=(108.353, 115.294, 114.578),
        rows={
            "fcn32s": Row(title="FCN-32s", model="fcn32s", paper=()),
            "fcn16s": Row(
                title="FCN-16s", model="fcn16s", paper=(85.2, 51.7, 39.5, 76.1, 94.3), rate=MIDDLE, after="fcn32s"
            ),
            "fcn8s": Row(
                title="FCN-8s", model="fcn8s", paper=(85.9, 53.9, 41.2, 77.2, 94.6), rate=MIDDLE, after="fcn16s"
            ),
        },
        geometric=True,
        present=True,
    ),
    "table7": Table(
        title="FCN's table 7: 59 classes of things and stuff (PASCAL-Context)",
        about="""\
Trained on the 4,998 images of VOC 2010's `train`, scored on the 5,105 of `val`. There are 60 classes with the
background; the paper does not state whether its scores include it, the authors' code does. The training time is not
stated.""",
        train="train",
        test="val",
        mean=VOC_MEAN,
        rows={
            "fcn32s": Row(title="FCN-32s", model="fcn32s", paper=(65.5, 49.1, 36.7, 50.9)),
            "fcn16s": Row(title="FCN-16s", model="fcn16s", paper=(66.9, 51.3, 38.4, 52.3), rate=MIDDLE, after="fcn32s"),
            "fcn8s": Row(title="FCN-8s", model="fcn8s", paper=(67.5, 52.3, 39.1, 53.0), rate=FINE, after="fcn16s"),
        },
        without_background=True,
    ),
}
