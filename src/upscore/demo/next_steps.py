"""Chapter: the commands that do this with one's own images."""

from __future__ import annotations

from pathlib import Path

from upscore.demo.nuclei import predict_line
from upscore.demo.page import Chapter, heading, join, terminal, text


def chapter(output: Path) -> Chapter:
    """The folder layout of training data, and the next commands."""
    return Chapter(
        anchor="yours",
        title="Your own images",
        body=join(
            text(
                "Put images in `images/` and label files of the same names in `labels/`. For semantic segmentation a "
                "label is a PNG with the class index of every pixel (255 = ignore), and `classes.txt` names the "
                "classes. For instance segmentation a label is a 16-bit PNG with the number of an object per pixel "
                "(0 = background). COCO and PASCAL VOC folders are read as they are. A fifth of the images is held "
                "out for validation, unless there are `train/` and `val/` folders."
            ),
            terminal(
                [
                    "# what is in the data, and what is wrong with it",
                    "upscore data check photos/",
                    "# semantic segmentation; Ctrl-C saves the state, --resume continues",
                    "upscore train photos/ --output runs/mine",
                    "# instance segmentation",
                    "upscore train photos/ --model mask_rcnn --output runs/mine",
                    "# scores on the held-out images, masks and overlays of new ones",
                    "upscore evaluate runs/mine photos/",
                    "upscore predict runs/mine new/ --output out",
                ]
            ),
            heading("The networks of this page"),
            text("The networks that were trained for this page are beside it and can be used:"),
            terminal([predict_line(output), "upscore predict nuclei image.png --output out"]),
        ),
    )
