"""Reading and writing of the int8 networks of a model folder, which `upscore calibrate` writes to `int8/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from upscore.checkpoints.config import CONFIG
from upscore.checkpoints.model_folder import BUILT_IN, QUANTIZED, WEIGHTS
from upscore.errors import UserError
from upscore.files import atomic_folder, file_digest
from upscore.inference.engines.openvino import core, import_openvino
from upscore.inference.fcn_runner import SCORES
from upscore.inference.mask_rcnn_runner import BOX, DENSE, MASK
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

if TYPE_CHECKING:
    import openvino as ov

SOURCE, REPORT = "weights.sha256", "report.json"
"""`SOURCE` holds the digest of the weights, `FORMAT_VERSION` and the names of the parts."""

ELSEWHERE = "choose another folder with --output FOLDER"

FORMAT_VERSION = "2"
"""Version of the parts and their inputs and outputs; int8 networks of other versions are rejected."""


def part_names(net: FCN | MaskRCNN) -> tuple[str, ...]:
    """Return the names of all parts that an engine runs."""
    return (DENSE, BOX, MASK) if isinstance(net, MaskRCNN) else (SCORES,)


def find_quantized(model: Path) -> Path:
    """Return the folder with the int8 networks of a model.

    Raises:
        UserError: there is none, it belongs to other weights, or a file is missing.
    """
    folder = model / QUANTIZED
    if not (folder / SOURCE).is_file():
        if model.is_relative_to(BUILT_IN):
            raise UserError(
                f"{model.name} has no int8 network: create a copy with int8 by "
                f"`upscore calibrate {model.name} PHOTOS --output FOLDER` and use FOLDER, or choose another precision"
            )
        raise UserError(
            f"{model} has no int8 network: run `upscore calibrate {model} PHOTOS`, or choose another precision"
        )
    source, names = _source(folder)
    if source != [file_digest(model / WEIGHTS), FORMAT_VERSION]:
        raise UserError(
            f"{folder} belongs to other weights or to another version: run `upscore calibrate {model} PHOTOS` again"
        )
    for path in (folder / f"{name}{suffix}" for name in names for suffix in (".xml", ".bin")):
        if not path.is_file():
            raise UserError(f"{path} is missing: run `upscore calibrate {model} PHOTOS` again")
    return folder


def _source(folder: Path) -> tuple[list[str], list[str]]:
    """Return the digest and format version of a folder, and the names of its parts."""
    try:
        words = (folder / SOURCE).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / SOURCE} cannot be read: run `upscore calibrate` again") from error
    return words[:2], words[2:]


def read_quantized(folder: Path) -> dict[str, ov.Model]:
    """Read the int8 parts of a network, by their names.

    Raises:
        UserError: a file cannot be read.
    """
    try:
        return {path.stem: core().read_model(path) for path in sorted(folder.glob("*.xml"))}
    except RuntimeError as error:
        raise UserError(f"{folder} cannot be read: run `upscore calibrate` again") from error


def save_quantized(
    model: Path, parts: Mapping[str, ov.Model], report: Mapping[str, Any], *, output: Path | None = None
) -> None:
    """Write `int8/` into a model folder atomically, with a report of the accuracy of int8.

    With `output`, the model folder is not changed, and a copy with `int8/` is written there.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        if output is None:
            with atomic_folder(model / QUANTIZED) as temporary:
                _fill(temporary, model, parts, report)
            return
        with atomic_folder(output) as temporary:
            for name in (WEIGHTS, CONFIG):
                copyfile(model / name, temporary / name)
            (temporary / QUANTIZED).mkdir()
            _fill(temporary / QUANTIZED, model, parts, report)
    except (OSError, RuntimeError) as error:  # OpenVINO raises RuntimeError
        raise _cannot_write(output or model, error) from error


def _fill(folder: Path, model: Path, parts: Mapping[str, ov.Model], report: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        import_openvino().save_model(part, folder / f"{name}.xml", compress_to_fp16=False)
    (folder / SOURCE).write_text(
        " ".join([file_digest(model / WEIGHTS), FORMAT_VERSION, *parts]) + "\n", encoding="utf-8"
    )
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _cannot_write(model: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
    return UserError(f"{model}: can't be written ({reason}); {ELSEWHERE}")
