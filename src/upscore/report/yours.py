"""Chapter: the commands that do all this with one's own photos."""

from __future__ import annotations

import shlex
from pathlib import Path

from upscore.report.page import Chapter, heading, join, terminal, text


def predict_line(model: Path) -> str:
    """The command that tries a model on a photo."""
    return f"upscore predict {shlex.quote(str(model))} photo.jpg --output out"


def chapter(output: Path, model: str) -> Chapter:
    """What to type next."""
    return Chapter(
        anchor="yours",
        title="Now with your own photos",
        body=join(
            text(
                "The classifier, the code and the weights are re-usable, which is the point of it all. What is yours "
                "is a folder: `images/` with photos, and `labels/` with a mask of the same name for each, whose values "
                "are class numbers (255: leave this pixel out)."
            ),
            terminal(
                [
                    "# where is the tiger cat?",
                    'upscore heatmap photo.jpg --label "tiger cat"',
                    "# are photos and masks as they should be?",
                    "upscore data check photos/",
                    "# train; Ctrl-C stops, --resume goes on",
                    "upscore train photos/ --model fcn8s --output runs/mine",
                    "# how good is it, and what does it say of new photos?",
                    "upscore evaluate runs/mine photos/",
                    "upscore predict runs/mine new/ --output out",
                ]
            ),
            heading("The networks of this page"),
            text(
                "They are beside it and can be used as they are, though shapes on photographs are all they know. "
                "More training on more scenes takes them further:"
            ),
            terminal(
                [
                    predict_line(output / model),
                    f"upscore evaluate {shlex.quote(str(output / model))} scenes:400:7",
                    "upscore train scenes:2000 --epochs 20 --output runs/scenes",
                ]
            ),
        ),
    )
