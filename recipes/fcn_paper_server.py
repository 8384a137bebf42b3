"""Writes masks of the PASCAL VOC test images, and an archive for its evaluation server."""

from __future__ import annotations

import tarfile
from pathlib import Path

from rich.progress import track

from upscore.data.datasets import open_dataset
from upscore.data.formats.voc import CLASSES
from upscore.errors import UserError
from upscore.files import atomic_path
from upscore.inference import load
from upscore.results import as_semantic
from upscore.training.run_folder import RunFolder
from upscore.viz.overlays import index_image

COMPETITION = "comp6"
"""Name of the segmentation competition with additional training data, such as SBD."""


def submit(folder_of_model: Path, data: Path, output: Path, *, year: int) -> Path:
    """Write a palette PNG for each test image, and the archive.

    Args:
        folder_of_model: model folder or run.
        data: folder of PASCAL VOC.
        output: folder to write to.
        year: year of the data.

    Returns:
        The path of the archive.

    Raises:
        UserError: the data has no test set, or the classes of the model are not those of PASCAL VOC.
    """
    model = load(folder_of_model)
    if model.classes != CLASSES:
        raise UserError(f"{folder_of_model} does not have the 21 classes of PASCAL VOC: give a model trained on VOC")
    test = open_dataset(data, "test")
    names = getattr(test, "names", None)
    assert names is not None, "images in files have names"
    folder = output / f"VOC{year}"
    RunFolder(folder).open({"model": str(folder_of_model), "data": str(data)}, resume=True)
    inside = Path("results") / f"VOC{year}" / "Segmentation" / f"{COMPETITION}_test_cls"
    for index, name in enumerate(track(names, "Predicting", transient=True)):
        path = folder / inside / f"{name}.png"
        if not path.exists():
            mask = as_semantic(model.predict(test[index].image)).class_map
            assert mask is not None
            with atomic_path(path) as temporary:
                index_image(mask, len(CLASSES)).save(temporary)
    with atomic_path(folder / f"{COMPETITION}_VOC{year}.tar") as temporary, tarfile.open(temporary, "w") as archive:
        for name in names:
            archive.add(folder / inside / f"{name}.png", arcname=str(inside / f"{name}.png"))
    return folder / f"{COMPETITION}_VOC{year}.tar"
