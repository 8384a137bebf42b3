"""Other experiments of the FCN paper: training from scratch, augmentation, losses, class weights, patches.

    python recipes/fcn_choices.py --camvid CAMVID --output runs/tables --docs docs/results

FCN-8s with EfficientNet-Lite0 on generated scenes and on CamVid (one video for validation), three seeds. An interrupted
run is resumed by the same command. The reference is that of recipes/fcn_table3.py and is not run again.
"""

from __future__ import annotations

from table_runs import CAMVID, SCENES, Row, Table
from tables import main

REMARK = """\
In the paper, a null background lowers mean IoU by about one point after long training. The decrease is larger here:
initial scores of zero give each class a probability of one half, which short training has to correct first. Class
weights increase mean accuracy and lower mean IoU, since rare classes are predicted too often. Augmentation has no
effect in short training, as in the paper. Half of the cells with twice as many images give the same scores at a higher
cost."""

TABLE = Table(
    name="fcn_choices",
    title="From scratch, without augmentation, other losses",
    plot="mean IoU by what was changed",
    about="""\
FCN-8s with EfficientNet-Lite0. *From scratch*: random weights, batch statistics. *No augmentation*: crops only, without
change of scale or colour and without flips. *Sigmoid*: one sigmoid per class instead of a softmax. *Null background*:
sigmoid, and the first class (on CamVid: sky) has no score (FCN section 6.1). *Class weights*: median frequency
balancing. *Patches*: the labels of a random half of the cells of 32 x 32 pixels are ignored, with twice as many images
per step and run (section 3.4).""",
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
