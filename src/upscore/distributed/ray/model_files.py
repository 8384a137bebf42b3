"""Transfer of model files to the workers of a cluster."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from upscore.checkpoints.hub import is_on_hub
from upscore.checkpoints.model_folder import find_model
from upscore.inference.engines import EngineName, Precision
from upscore.inference.load import load
from upscore.inference.model import Model

ModelFiles = str | dict[str, bytes]
"""Address on the Hugging Face hub, from which each machine downloads the model, or the files of a model folder."""


def read_model(source: str) -> ModelFiles:
    """Return the files of a model for transfer to the workers.

    Raises:
        UserError: there is no such model.
    """
    if is_on_hub(source):
        return source
    folder = find_model(source)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def load_files(files: ModelFiles, engine: EngineName, precision: Precision) -> Model:
    """Load a model from transferred files, like `upscore.load`.

    Raises:
        UserError: the model cannot be read, or the engine is not installed.
    """
    if isinstance(files, str):
        return load(files, engine=engine, precision=precision)
    folder = Path(tempfile.mkdtemp(prefix="upscore-model-"))
    try:
        for name, data in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        model = load(folder, engine=engine, precision=precision)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(
        model, shutil.rmtree, folder, ignore_errors=True
    )  # `Model.module` reads the folder at the first access
    return model
