"""The example data set that ships with the package: microscope images of nuclei, with one mask per nucleus."""

from __future__ import annotations

import shutil
from pathlib import Path

from upscore.errors import UserError
from upscore.files import atomic_folder, write_text


def example_path() -> Path:
    """Return the folder of the example data set, inside the installed package.

    It holds 40 images for training and 16 for validation, 256 x 256 pixels each, in the folder layout that
    `upscore train` reads: `train/images`, `train/labels`, `val/images`, `val/labels`. A label is a 16-bit PNG with the
    number of a nucleus per pixel, 0 for the background. README.md in it names the source (BBBC038, CC0).
    """
    return Path(__file__).parent / "nuclei"


def copy_example(output: str | Path) -> Path:
    """Copy the example data set to the folder `output` and return its path.

    Raises:
        UserError: `output` exists already, or cannot be written.
    """
    output = Path(output)
    if output.exists():
        raise UserError(f"{output} exists already; name a new folder for the example data set.")
    try:
        with atomic_folder(output) as folder:
            shutil.copytree(example_path(), folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
            readme = folder / "README.md"
            text = readme.read_text(encoding="utf-8")
            write_text(
                readme, text.replace(" nuclei/", f" {output.name}/").replace("runs/nuclei", f"runs/{output.name}")
            )
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); name another folder.") from error
    return output
