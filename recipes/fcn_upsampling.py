"""Fixed or learned upsampling, with a kernel per class or per pair of classes (FCN section 4.3).

    python recipes/fcn_upsampling.py --camvid CAMVID --output runs/tables --docs docs/results

FCN-8s with EfficientNet-Lite0 on generated scenes and on CamVid (one video for validation), three seeds. An interrupted
run is resumed by the same command. The reference is that of recipes/fcn_table3.py and is not run again.
"""

from __future__ import annotations

from table_runs import Row, Table
from tables import main

TABLE = Table(
    name="fcn_upsampling",
    title="Upsampling: bilinear and fixed, or learned",
    plot="mean IoU by upsampling",
    about="""\
FCN-8s with EfficientNet-Lite0. All kernels are initially bilinear. *Fixed*: they are not trained, as in the released
networks. *Between the maps*: the two 4x4 kernels are trained, as described in the paper. *Learned*: the last one is
trained as well; *per class* with one kernel per class, *dense* with one per pair of classes, as in Caffe. The paper
reports no numbers; its authors found no significant difference.""",
    rows={
        "fcn8s": Row(title="fixed"),
        "between": Row(title="between the maps", options={"upsampling": "intermediate"}),
        "learned": Row(title="learned, per class", options={"upsampling": "learned"}),
        "dense": Row(title="learned, dense", options={"upsampling": "learned", "grouped": False}),
    },
)


if __name__ == "__main__":
    main(TABLE, __doc__)
