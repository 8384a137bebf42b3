"""SIFT Flow: outdoor scenes of 256 x 256 pixels with semantic and geometric classes.

Liu et al., "Nonparametric Scene Parsing: Label Transfer via Dense Scene Alignment" (2009); geometric labels by Tighe
and Lazebnik, "SuperParsing" (2010), whose `SiftFlowDataset` has the layout:

```
Images/spatial_envelope_256x256_static_8outdoorcategories/coast_natu975.jpg
SemanticLabels/<the same>/coast_natu975.mat   S: 1 to 33, 0 for none
GeoLabels/<the same>/coast_natu975.mat        S: 1 to 3, -1 or 0 for none; may be left out
TestSet1.txt                                  or test.txt: the 200 images to test on
train.txt and val.txt, or trainval.txt        optional; without them all others are trained on
```
"""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

from upscore.data.formats.folder import DatasetIndex, Files, GeometricLabels, Issue, pair_listed
from upscore.data.io.matlab import classes_from_one
from upscore.errors import UserError

CLASSES = [
    "awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk", "desert", "door",
    "fence", "field", "grass", "moon", "mountain", "person", "plant", "pole", "river", "road", "rock", "sand", "sea",
    "sidewalk", "sign", "sky", "staircase", "streetlight", "sun", "tree", "window",
]  # fmt: skip
GEOMETRIC_CLASSES = ["sky", "horizontal", "vertical"]

SCENES = "spatial_envelope_256x256_static_8outdoorcategories"
TEST_LISTS = ("TestSet1.txt", "test.txt")

UNLABELLED = {"highway_bost181", "street_urb506"}
"""Images of the archive in which no pixel is labelled (the FCN authors' `data/sift-flow/classes.txt`)."""


def list_sift_flow(root: Path) -> DatasetIndex | None:
    """List the folder of the archive, or one that holds it as `SiftFlowDataset`; None if `root` is neither.

    Raises:
        UserError: the list of the test set is missing or cannot be read, or there is nothing beside it.
    """
    roots = [root, root / "SiftFlowDataset"]
    home = next((home for home in roots if (home / "SemanticLabels" / SCENES).is_dir()), None)
    if home is None:
        return None
    image_files = Files(home / "Images" / SCENES, ".jpg")
    labels = Files(home / "SemanticLabels" / SCENES, ".mat")
    geometric = Files(home / "GeoLabels" / SCENES, ".mat") if (home / "GeoLabels").is_dir() else None
    issues: list[Issue] = []
    return DatasetIndex(
        layout="SIFT Flow",
        splits={
            split: pair_listed(names, split, image_files, labels, issues, geometric=geometric)
            for split, names in _splits(home, image_files).items()
        },
        classes=CLASSES,
        classes_from="SIFT Flow's",
        read_label=partial(classes_from_one, name="S", count=len(CLASSES)),
        geometric=geometric
        and GeometricLabels(
            classes=GEOMETRIC_CLASSES,
            read=partial(classes_from_one, name="S", count=len(GEOMETRIC_CLASSES), lowest=-1),
        ),
        issues=issues,
    )


def _splits(home: Path, image_files: Files) -> dict[str, list[str]]:
    test = next((names for name in TEST_LISTS if (names := _names(home / name))), None)
    if test is None:
        raise UserError(f"{home / TEST_LISTS[0]}: is missing or empty; it lists the images to test on.")
    train, val = _names(home / "train.txt"), _names(home / "val.txt")
    if not train:
        train, val = _names(home / "trainval.txt") or sorted(image_files.names - UNLABELLED - set(test)), []
    if not train:
        raise UserError(f"{image_files.folder}: holds no images but those of the test set; take them from the archive.")
    return {"train": train, **({"val": val} if val else {}), "test": test}


def _names(path: Path) -> list[str]:
    """The images of a list, each once: `coast_natu975`, or a path to it with slashes of either kind."""
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    paths = [PurePosixPath(line.strip().replace("\\", "/")) for line in lines if line.strip()]
    return list(dict.fromkeys(path.name.removesuffix(".jpg") for path in paths))
