"""The command line interface.

Each command is a function in its own module. Heavy packages are imported when the function is called.
"""

from __future__ import annotations

import io
import os
import sys
import warnings

from cyclopts import App

import upscore
from upscore.cli.bench import bench
from upscore.cli.calibrate import calibrate
from upscore.cli.ceiling import ceiling
from upscore.cli.cues import cues
from upscore.cli.data import check, example
from upscore.cli.demo import demo
from upscore.cli.evaluate import evaluate
from upscore.cli.heatmap import heatmap
from upscore.cli.import_ import import_
from upscore.cli.predict import predict
from upscore.cli.superpixels import superpixels
from upscore.cli.train import train
from upscore.errors import UserError
from upscore.memory import is_out_of_memory
from upscore.text import printable

OUT_OF_MEMORY = "out of memory: raise the limit (ulimit -v, or that of the container), or use a machine with more"

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

_default_format = warnings.formatwarning

app = App(
    name="upscore",
    version=upscore.__version__,
    suppress_keyboard_interrupt=False,
    help="""Semantic and instance segmentation: from a folder of labelled images to a model.

```
upscore demo                          # needs no data, takes minutes
upscore heatmap photo.jpg --label "tiger cat"
upscore data check DATA
upscore train DATA --model fcn8s --output runs/streets
upscore evaluate runs/streets DATA --json scores.json
upscore predict runs/streets photos/ --output out/
upscore analyze ceiling DATA          # which stride do your labels need?
```
""",
    help_format="markdown",
)
data = App(
    name="data",
    help="""Check labelled data before training on it.

```
upscore data check photos/
upscore data example nuclei/          # an example data set
```
""",
    help_format="markdown",
)
analyze = App(
    name="analyze",
    help="""Analyze labelled data: strides, visual cues, superpixels.

```
upscore analyze ceiling DATA
upscore analyze cues DATA --model fcn8s --output cues/
upscore analyze superpixels DATA --output superpixels/
```
""",
    help_format="markdown",
)
app.command(data)
app.command(analyze)

for name, verb in {
    "demo": demo,
    "heatmap": heatmap,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "import": import_,
    "calibrate": calibrate,
    "bench": bench,
}.items():
    app.command(verb, name=name)
data.command(check, name="check")
data.command(example, name="example")
analyze.command(ceiling, name="ceiling")
analyze.command(cues, name="cues")
analyze.command(superpixels, name="superpixels")


def main() -> None:
    """Run a command and exit; print a `UserError` as one sentence on standard error."""
    warnings.formatwarning = _format_warning
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may contain bytes that cannot be decoded
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _refuse_torchrun()
        status = app(sys.argv[1:])
    except UserError as error:
        print(f"upscore: {printable(str(error))}", file=sys.stderr)
        status = EXIT_USAGE
    except (MemoryError, RuntimeError, IndexError, ImportError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"upscore: {OUT_OF_MEMORY} ({type(error).__name__}: {_first_line(error)})", file=sys.stderr)
        status = EXIT_FAILED
    except KeyboardInterrupt:
        print("upscore: interrupted", file=sys.stderr)
        status = EXIT_INTERRUPTED
    sys.exit(status)


def _first_line(error: BaseException) -> str:
    return printable(next(iter(str(error).strip().splitlines()), ""))


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format warnings of upscore like its errors, and all others as Python does."""
    if category.__module__.startswith("upscore"):
        return f"upscore: {printable(str(message))}\n"
    return _default_format(message, category, filename, lineno, line)


def _refuse_torchrun() -> None:
    """Raise a `UserError` if torchrun started several processes of a command other than `train`."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if "LOCAL_RANK" not in os.environ or processes == "1" or sys.argv[1:2] in ([], ["train"]):
        return
    if os.environ.get("RANK", "0") != "0":
        sys.exit(EXIT_USAGE)
    raise UserError(
        f"`{sys.argv[1]}` cannot be distributed by torchrun, which started {processes} processes: run it without "
        "torchrun (`predict` and `evaluate` run on several processes with --ray)"
    )
