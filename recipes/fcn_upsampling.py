"""Upsampling fixed or learned, and learned with a kernel for each class or for each pair of classes (FCN section 4.3).

    python recipes/fcn_upsampling.py --camvid CAMVID --output runs/tables --docs docs/results

FCN-8s over EfficientNet-Lite0, on generated scenes and on CamVid with a whole video held out, three seeds. Interrupted,
the same command goes on where it stopped; the reference is that of recipes/fcn_table3.py, and is not run twice.
"""

from __future__ import annotations

from table_runs import Row, Table
from tables import main

TABLE = Table(
    name="fcn_upsampling",
    title="Upsampling: bilinear and fixed, or learned",
    plot="mean IoU by upsampling",
    about="""\
FCN-8s over EfficientNet-Lite0. All kernels start out bilinear. *Fixed*: they stay so, as in the released networks.
*Between the maps*: the two 4x4 ones are learned, as the paper's text has it. *Learned*: the last one too; *per class*
with one kernel for each class, *dense* with one for each pair of classes, as Caffe's layer has them. The paper has no
figures for this choice; its authors found no difference that matters.""",
    rows={
        "fcn8s": Row(title="fixed"),
        "between": Row(title="between the maps", options={"upsampling": "intermediate"}),
        "learned": Row(title="learned, per class", options={"upsampling": "learned"}),
        "dense": Row(title="learned, dense", options={"upsampling": "learned", "grouped": False}),
    },
)


if __name__ == "__main__":
    main(TABLE, __doc__)
