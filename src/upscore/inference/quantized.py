"""A model folder's networks in int8: `int8/` beside the weights, made by `upscore calibrate`."""

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
from upscore.inference.detector import BOX, DENSE, MASK
from upscore.inference.engines.openvino import core, import_openvino
from upscore.inference.semantic import SCORES
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

if TYPE_CHECKING:
    import openvino as ov

SOURCE, REPORT = "weights.sha256", "report.json"
"""SOURCE: the digest of the weights, `FORMS`, and the names of the parts that were written."""

ELSEWHERE = "choose another place for int8 with --output FOLDER"

FORMS = "2"
"""Of the parts and what goes in and out of them; another one's int8 must be made again."""


def part_names(net: FCN | MaskRCNN) -> tuple[str, ...]:
    """Of all parts that an engine runs, be they in int8 or not."""
    return (DENSE, BOX, MASK) if isinstance(net, MaskRCNN) else (SCORES,)


def find_quantized(model: Path) -> Path:
    """The folder with a model's networks in int8.

    Raises:
        UserError: there is none, it was made of other weights, or a file of it is missing.
    """
    folder = model / QUANTIZED
    if not (folder / SOURCE).is_file():
        if model.is_relative_to(BUILT_IN):
            raise UserError(
                f"{model.name} has no int8 network: make a copy that has with "
                f"`upscore calibrate {model.name} PHOTOS --output FOLDER` and use FOLDER, or choose another precision"
            )
        raise UserError(
            f"{model} has no int8 network: make it with `upscore calibrate {model} PHOTOS`, or choose another precision"
        )
    made_of, names = _source(folder)
    if made_of != [file_digest(model / WEIGHTS), FORMS]:
        raise UserError(
            f"{folder} was made of other weights, or by another version: run `upscore calibrate {model} PHOTOS` again"
        )
    for path in (folder / f"{name}{suffix}" for name in names for suffix in (".xml", ".bin")):
        if not path.is_file():
            raise UserError(f"{path} is missing: run `upscore calibrate {model} PHOTOS` again")
    return folder


def _source(folder: Path) -> tuple[list[str], list[str]]:
    """What a folder was made of, and the names of its parts."""
    try:
        words = (folder / SOURCE).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / SOURCE} can't be read: make it again with `upscore calibrate`") from error
    return words[:2], words[2:]


def read_quantized(folder: Path) -> dict[str, ov.Model]:
    """Each part by its name.

    Raises:
        UserError: a file can't be read.
    """
    try:
        return {path.stem: core().read_model(path) for path in sorted(folder.glob("*.xml"))}
    except RuntimeError as error:
        raise UserError(f"{folder} can't be read: make it again with `upscore calibrate`") from error


def save_quantized(
    model: Path, parts: Mapping[str, ov.Model], report: Mapping[str, Any], *, output: Path | None = None
) -> None:
    """Write `int8/` into a model folder, whole or not at all, with a report of what int8 costs.

    With `output`, the model folder stays as it is, and a copy that has `int8/` is written there.

    Raises:
        UserError: it can't be written.
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
    except (OSError, RuntimeError) as error:  # the latter is OpenVINO's
        raise _cannot_write(output or model, error) from error


def _fill(folder: Path, model: Path, parts: Mapping[str, ov.Model], report: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        import_openvino().save_model(part, folder / f"{name}.xml", compress_to_fp16=False)
    (folder / SOURCE).write_text(" ".join([file_digest(model / WEIGHTS), FORMS, *parts]) + "\n", encoding="utf-8")
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _cannot_write(model: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
    return UserError(f"{model}: can't be written ({reason}); {ELSEWHERE}")
