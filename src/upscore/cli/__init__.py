"""The command line: each verb is a function in a file of its own, imported when it is called."""

from __future__ import annotations

import sys

from cyclopts import App

import upscore
from upscore.errors import UserError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

app = App(
    name="upscore",
    version=upscore.__version__,
    help="""Pixel-level recognition: which class is each pixel, and which object does it belong to?

```
upscore demo                                  # no data needed: see what it does in a few minutes
upscore heatmap photo.jpg --label "tiger cat"
upscore data check DATA
upscore train DATA --model fcn8s --output runs/streets
upscore evaluate runs/streets DATA --json scores.json
upscore predict runs/streets photos/ --output out/
```
""",
    help_format="markdown",
)
data = App(name="data", help="Look at labelled data before training on it.", help_format="markdown")
app.command(data)

app.command("upscore.cli.demo:demo", name="demo", help="Show everything on data that is built in; ends in one HTML page.")
app.command("upscore.cli.heatmap:heatmap", name="heatmap", help="Where in a photo is the tiger cat? An ImageNet classifier, made convolutional.")
app.command("upscore.cli.train:train", name="train", help="Train a network on labelled photos.")
app.command("upscore.cli.evaluate:evaluate", name="evaluate", help="Score a model on labelled photos.")
app.command("upscore.cli.predict:predict", name="predict", help="Write a mask and an overlay for each photo.")
app.command("upscore.cli.import_:import_", name="import", help="Turn a checkpoint of another project into a model folder.")
data.command("upscore.cli.data:check", name="check", help="List everything that is wrong with a data set.")


def main() -> None:
    """Run the verb; a user's mistake becomes one sentence on standard error."""
    try:
        status = app()
    except UserError as error:
        print(f"upscore: {error}", file=sys.stderr)
        status = EXIT_USAGE
    except KeyboardInterrupt:
        print("upscore: interrupted", file=sys.stderr)
        status = EXIT_INTERRUPTED
    sys.exit(status)
