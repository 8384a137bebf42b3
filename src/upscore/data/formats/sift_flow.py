"""List SIFT Flow: outdoor images of 256 x 256 pixels with semantic and geometric classes.

Liu et al., "Nonparametric Scene Parsing: Label Transfer via Dense Scene Alignment" (2009). The geometric labels are
those of Tighe and Lazebnik, "SuperParsing" (2010), whose archive `SiftFlowDataset` has the layout:

```
Images/spatial_envelope_256x256_static_8outdoorcategories/coast_natu975.jpg
SemanticLabels/(same name)/coast_natu975.mat  variable `S`: 1 to 33, 0 = no class
GeoLabels/(same name)/coast_natu975.mat       optional; variable `S`: 1 to 3, -1 or 0 = no class
TestSet1.txt                                  or test.txt: the 200 test images
train.txt and val.txt, or trainval.txt        optional; without them all other images are the training split
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
"""Images without a labelled pixel (listed in the FCN authors' `data/sift-flow/classes.txt`)."""


def list_sift_flow(root: Path) -> DatasetIndex | None:
    """List the files of the folder, or of its subfolder `SiftFlowDataset`; None if `root` has another layout.

    Raises:
        UserError: the list of the test split is missing or cannot be read, or there are no training images.
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
        raise UserError(f"{home / TEST_LISTS[0]}: is missing or empty; it must list the test images.")
    train, val = _names(home / "train.txt"), _names(home / "val.txt")
    if not train:
        train, val = _names(home / "trainval.txt") or sorted(image_files.names - UNLABELLED - set(test)), []
    if not train:
        raise UserError(f"{image_files.folder}: contains only test images; extract the others from the archive.")
    return {"train": train, **({"val": val} if val else {}), "test": test}


def _names(path: Path) -> list[str]:
    """Return the names of the images in a list without duplicates; lines may be paths with `/` or `\\`."""
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    paths = [PurePosixPath(line.strip().replace("\\", "/")) for line in lines if line.strip()]
    return list(dict.fromkeys(path.name.removesuffix(".jpg") for path in paths))
