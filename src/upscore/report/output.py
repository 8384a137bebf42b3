"""The folder that the demo writes to, which may hold files of others."""

from __future__ import annotations

import json
from pathlib import Path

import upscore
from upscore.errors import UserError
from upscore.files import write_text

MARKER, PAGE, PICTURES = "demo.json", "report.html", "images"


def claim(output: Path, networks: list[str]) -> None:
    """Make the folder, or begin afresh in that of an earlier demo; what the demo did not write is left alone.

    Raises:
        UserError: something that the demo would write over is not its own.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; --output takes a folder")
    names = [PAGE, PICTURES, *networks]
    foreign = [] if (output / MARKER).exists() else [name for name in names if (output / name).exists()]
    foreign += [name for name in networks if (output / name / "run.json").exists() and name not in foreign]
    if foreign:
        raise UserError(f"{output} has {', '.join(foreign)}, not written by the demo: choose another --output")
    marker = {"written_by": f"upscore demo {upscore.__version__}", "replaces": names}
    write_text(output / MARKER, json.dumps(marker, indent=2) + "\n")
    (output / PAGE).unlink(missing_ok=True)  # until it is made again, there is no page about what lies beside it
