"""Masks of PASCAL VOC's test photos, packed as its server takes them."""

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
"""Segmentation by who has trained on more than VOC's own photos, as those of SBD are."""


def submit(model: Path, data: Path, output: Path, *, year: int) -> Path:
    """Write the masks, a palette PNG each, and the archive with all; returns its path.

    Raises:
        UserError: the data has no test set, or the model tells other classes.
    """
    predictor = load(model)
    if predictor.classes != CLASSES:
        raise UserError(f"{model}: tells other classes than PASCAL VOC's 21, so the server has no use for its masks")
    test = open_dataset(data, "test")
    names = getattr(test, "names", None)
    assert names is not None, "photos in files have names"
    folder = output / f"VOC{year}"
    RunFolder(folder).open({"model": str(model), "data": str(data)}, resume=True)
    inside = Path("results") / f"VOC{year}" / "Segmentation" / f"{COMPETITION}_test_cls"
    for index, name in enumerate(track(names, "Predicting", transient=True)):
        path = folder / inside / f"{name}.png"
        if not path.exists():
            mask = as_semantic(predictor.predict(test[index].image)).class_map
            assert mask is not None
            with atomic_path(path) as temporary:
                index_image(mask, len(CLASSES)).save(temporary)
    with atomic_path(folder / f"{COMPETITION}_VOC{year}.tar") as temporary, tarfile.open(temporary, "w") as archive:
        for name in names:
            archive.add(folder / inside / f"{name}.png", arcname=str(inside / f"{name}.png"))
    return folder / f"{COMPETITION}_VOC{year}.tar"
