"""What the FCN paper tried beside the strides: where to start, augmentation, losses, class weights, patches.

    python recipes/fcn_choices.py --camvid CAMVID --output runs/tables --docs docs/results

FCN-8s over EfficientNet-Lite0, on generated scenes and on CamVid with a whole video held out, three seeds. Interrupted,
the same command goes on where it stopped; the reference is that of recipes/fcn_table3.py, and is not run twice.
"""

from __future__ import annotations

from table_runs import CAMVID, SCENES, Row, Table
from tables import main

REMARK = """\
The paper has a null background about one point lower, after long training. Here it costs more: scores start at zero,
where each class has a probability of a half, and in a run of a minute the other classes first have to learn not to be
there. Class weights trade pixels for classes: the mean accuracy rises, the mean IoU falls, as rare classes spread over
their neighbours. Augmentation brings nothing in so short a run, as in the paper; half of the cells teach as much as all
of them do when twice as many photos are seen, and those have to be computed."""

TABLE = Table(
    name="fcn_choices",
    title="From scratch, without augmentation, other losses",
    plot="mean IoU by what was changed",
    about="""\
FCN-8s over EfficientNet-Lite0. *From scratch*: random weights, statistics of its own photos. *No augmentation*: crops
alone, no change of scale or colour, no mirror images. *Sigmoid*: a yes or no for each class instead of one out of all.
*Null background*: that, and the first class (on CamVid: sky) has no score of its own (FCN section 6.1). *Class
weights*: rare classes count more, by median frequency. *Patches*: the labels of half of the cells of 32 x 32 pixels are
taken away at random, and each step and the whole run see twice as many images (section 3.4).""",
    rows={
        "fcn8s": Row(title="reference"),
        "scratch": Row(title="from scratch", pretrained=False, recipe={"frozen_norm": False}),
        "plain": Row(title="no augmentation", recipe={"scale": None, "flip": 0, "colour": 0}),
        "sigmoid": Row(title="sigmoid", options={"pixel_loss": "sigmoid"}),
        "null": Row(title="null background", options={"pixel_loss": "sigmoid", "null_background": True}),
        "weighted": Row(title="class weights", recipe={"class_weights": "median"}),
        "patches": Row(title="patches, half", recipe={"patches": 0.5}),
    },
    orders=[("null", "fcn8s"), ("null", "sigmoid")],
    remarks={SCENES: REMARK, CAMVID: REMARK},
)


if __name__ == "__main__":
    main(TABLE, __doc__)
