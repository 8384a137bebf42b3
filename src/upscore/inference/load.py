"""Loading of models from a folder, a training run, the Hugging Face hub, or by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from upscore.checkpoints.config import read_config
from upscore.checkpoints.model_folder import WEIGHTS, find_model, load_model, require_file
from upscore.files import file_digest
from upscore.inference.engines import Device, EngineName, Precision
from upscore.inference.engines.cache import Store, code_version, store_for
from upscore.inference.engines.session import choose_precision, resolve_engine
from upscore.inference.model import EngineOptions, Model
from upscore.inference.model_sources import FolderSource
from upscore.inference.quantized import find_quantized, read_quantized
from upscore.inference.threading import usual_torch_threads

if TYPE_CHECKING:
    import openvino as ov


def load(
    source: str | Path,
    *,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    cache: bool = True,
) -> Model:
    """Load a model for prediction.

    Args:
        source: a model folder, a training run (its best model), the name of a built-in or published model, or
            "hf://OWNER/NAME" on the Hugging Face hub, with "@REVISION" for a branch, a tag or a commit.
        engine: engine that runs the network: "torch", "openvino" or "onnxruntime"; "auto" is torch on a machine with a
            GPU, and OpenVINO on others.
        precision: "float32", "bfloat16" or "int8"; "auto" is the faster of the first two. "int8" requires a model that
            was calibrated by `upscore calibrate`.
        device: "cpu", or a GPU such as "cuda:0" for the engine torch; "auto" is the first GPU, or the CPU if there is
            none.
        cache: whether to store OpenVINO's compiled networks on disk, in `UPSCORE_CACHE` or the user's cache folder. A
            stored network starts without building its layers; `Model.module` builds them at the first access.

    Raises:
        UserError: the model does not exist or is damaged, or it does not support the engine, precision or device.
    """
    name = resolve_engine(engine, precision, device)
    folder = find_model(source)
    config = read_config(folder)
    require_file(folder / WEIGHTS)
    quantized = find_quantized(folder) if precision == "int8" else None
    architecture = config.architecture.model_dump_json()
    choice = choose_precision(architecture, lambda: load_model(folder)[0], name, precision, device=device)
    store = _store(folder, architecture, choice.name, quantized) if name == "openvino" and cache else None
    parts: dict[str, ov.Model] = read_quantized(quantized) if quantized else {}
    options = EngineOptions(name, precision, device=device, quantized=parts, choice=choice, store=store)
    return Model.from_source(
        FolderSource(folder, store), options, max_side=config.max_side, training=config.training, folder=folder
    )


def _store(folder: Path, architecture: str, precision: str, quantized: Path | None) -> Store | None:
    """Return the cache for the compiled parts of a network; its key covers everything that they depend on."""
    files = [folder / WEIGHTS, *([] if quantized is None else sorted(quantized.iterdir()))]
    try:
        return store_for(*code_version(), architecture, precision, usual_torch_threads(), *map(file_digest, files))
    except (OSError, RuntimeError):  # unreadable weights, which are reported when they are read; no home folder
        return None
