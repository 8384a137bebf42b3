"""A model folder's networks in int8: `int8/` beside the weights, made by `upscore calibrate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscore.checkpoints.folder import QUANTIZED, WEIGHTS
from upscore.errors import UserError
from upscore.files import atomic_folder
from upscore.inference.engines.cache import digest_of
from upscore.inference.engines.openvino import core, import_openvino

if TYPE_CHECKING:
    import openvino as ov

SOURCE, REPORT = "weights.sha256", "report.json"

FORMS = "2"
"""Of the parts and what goes in and out of them; another one's int8 must be made again."""


def find_quantized(model: Path) -> Path:
    """The folder with a model's networks in int8.

    Raises:
        UserError: there is none, or it was made of other weights.
    """
    folder = model / QUANTIZED
    if not (folder / SOURCE).is_file():
        raise UserError(
            f"{model} has no int8 network: make it with `upscore calibrate {model} PHOTOS`, or choose another precision"
        )
    if (folder / SOURCE).read_text(encoding="utf-8").split() != [digest_of(model / WEIGHTS), FORMS]:
        raise UserError(
            f"{folder} was made of other weights, or by another version: run `upscore calibrate {model} PHOTOS` again"
        )
    return folder


def read_quantized(folder: Path) -> dict[str, ov.Model]:
    """Each part by its name.

    Raises:
        UserError: a file can't be read.
    """
    try:
        return {path.stem: core().read_model(path) for path in sorted(folder.glob("*.xml"))}
    except RuntimeError as error:
        raise UserError(f"{folder} can't be read: make it again with `upscore calibrate`") from error


def save_quantized(model: Path, parts: Mapping[str, ov.Model], report: Mapping[str, Any]) -> None:
    """Write `int8/` into a model folder, whole or not at all, with a report of what int8 costs."""
    ov = import_openvino()
    with atomic_folder(model / QUANTIZED) as temporary:
        for name, part in parts.items():
            ov.save_model(part, temporary / f"{name}.xml", compress_to_fp16=False)
        (temporary / SOURCE).write_text(f"{digest_of(model / WEIGHTS)} {FORMS}\n", encoding="utf-8")
        (temporary / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
