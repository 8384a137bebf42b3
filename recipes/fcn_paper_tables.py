"""What the FCN paper's tables 3, 5, 6 and 7 (journal version) train, on what, and the scores that it prints.

Settings that the paper leaves out are those of the authors' released solvers: constant rates, one photo a step,
momentum 0.99, 100,000 photos, of which each is drawn from all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal

IMAGES = 100_000
COARSE, MIDDLE, FINE = 1e-10, 1e-12, 1e-14
"""Rates of 32s, and of 16s and 8s on their way from it."""

SCORES = ("pixel acc.", "mean acc.", "mean IoU", "f.w. IU")
GEOMETRIC = "geometric acc."

LOG_DEPTH, HHA = 1, 3
DEPTH_MEANS = {LOG_DEPTH: (7.844 - log(1000),), HHA: (132.431, 94.076, 118.477)}
"""Channels of depth -> the authors' means over NYUDv2; they have the logarithm of millimetres."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network."""

    title: str
    model: str
    paper: tuple[float, ...]
    """The published scores in percent, in the table's order."""
    rate: float = COARSE
    images: int = IMAGES
    after: str | None = None
    """The row that it starts from."""
    depth_after: str | None = None
    """The row that its backbone for depth starts from."""
    depth: Literal["early", "late", "only"] | None = None
    depth_channels: Literal[1, 3] | None = None
    head_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Networks on one data set."""

    title: str
    about: str
    train: str
    """The split to train on; "trainval" is "train" where all but the test set is one."""
    test: str
    """The split to score, once, when all is trained."""
    mean: tuple[float, float, float]
    """Colour, in red, green, blue, that the authors subtract."""
    rows: Mapping[str, Row]
    geometric: bool = False
    """Two heads; the geometric one's pixel accuracy is a fifth score."""
    present: bool = False
    """Score the classes alone that are in the test set."""
    without_background: bool = False
    """Give the scores without class 0 too."""


VOC_MEAN = (122.67892, 116.66877, 104.00699)

TABLES = {
    "table3": Table(
        title="FCN's table 3: strides, staged or at once, frozen features, single maps (PASCAL VOC 2011)",
        about="""\
Trained on the 8,498 photos of SBD's `train.txt`, scored on VOC 2011's `val` without these (736 photos, the authors'
`seg11valid.txt`). The paper's time for FCN-8s is 36 hours staged, half of it at once, on one Titan X.""",
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
Trained on the 795 photos of `train.txt` and `val.txt`, scored on the 654 of `test.txt`. The paper does not say how
long it took. *early*: the depth's logarithm is a fourth channel. *late*: the mean of two networks, which were trained
before; the authors took them as they were after 28,000 (colours) and 60,000 photos (HHA).""",
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
Trained on all photos but the 200 of the test set and two without labels, scored on the 200. The networks tell 33
semantic classes; the mean is over the 30 that are in the test set. The row of 16s is of the paper's first version, and
neither says how long it took.""",
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
Trained on VOC 2010's 4,998 photos `train`, scored on its 5,105 photos `val`. There are 60 outputs, the background among
them; the paper does not say whether its scores count it, while the authors' code does. The paper does not say how long
it took.""",
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
