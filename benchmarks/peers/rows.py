"""All rows in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence

from peers import fcn_lite0, fcn_vgg16, folder, mask_rcnn, masks, train_fcn, train_mask_rcnn, upsampling
from peers.measure import Row
from upscore.errors import UserError

ROWS = (
    fcn_vgg16.row(),
    fcn_lite0.row(),
    upsampling.row(512, 512),
    upsampling.row(1024, 2048),
    mask_rcnn.row(),
    masks.row(),
    train_fcn.row(),
    train_mask_rcnn.row(),
    folder.row(),
)


def select_rows(names: Sequence[str]) -> list[Row]:
    """Return the rows with these names in the order of the table; all rows without names.

    Raises:
        UserError: a name is unknown.
    """
    known = [row.name for row in ROWS]
    for name in names:
        if name not in known:
            raise UserError(f"benchmark {name!r} does not exist: choose from {', '.join(known)}")
    return [row for row in ROWS if not names or row.name in names]
