"""A folder of photos to files against the network alone, on the same photos decoded before."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from peers.measure import Row, Side, Sides
from peers.shared import with_random_weights

PHOTOS, HEIGHT, WIDTH, CLASSES = 500, 375, 500, 21
DIFFERENT = 25
"""Scenes that are drawn; the others are copies of them, for what is measured is the work on a photo."""

QUALITY = 90
MOST = 1.15
"""How many times as long as the network alone the whole may take."""


def row() -> Row:
    """JPEGs of scenes; masks only, and with overlays, which take several times as long as masks to make."""
    return Row(
        name="folder",
        work=f"folder of {PHOTOS} JPEGs, {WIDTH}x{HEIGHT}, FCN-8s Lite0 bfloat16, to files",
        peer_name="the network alone, photos in memory",
        target={"masks": 1 / MOST},
        prepare=prepare,
    )


def prepare() -> Sides:
    """Photos in a temporary folder, and in memory."""
    from upscore.data.io.images import read_image
    from upscore.inference import Model
    from upscore.inference.folder import predict_folder
    from upscore.inference.outputs import find_images
    from upscore.models import build

    folder = Path(tempfile.mkdtemp(prefix="upscore-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_photos(folder / "photos")
    photos = find_images([folder / "photos"])
    images = [read_image(photo) for photo in list(photos.values())[:DIFFERENT]]
    net = build("fcn8s", backbone="efficientnet_lite0", num_classes=CLASSES)
    predictor = Model(with_random_weights(net), "openvino", "bfloat16")  # pyright: ignore[reportArgumentType]

    def alone() -> None:
        for number in range(PHOTOS):
            predictor.predict(images[number % DIFFERENT])

    def whole(*, overlays: bool) -> Side:
        def side() -> None:
            for outcome in predict_folder(predictor, photos, folder / "out", overlays=overlays):
                assert outcome.error is None, outcome.error

        return side

    return {"masks": whole(overlays=False), "with overlays": whole(overlays=True)}, alone


def write_photos(folder: Path) -> None:
    """Scenes as JPEGs, some of them under many names."""
    from PIL import Image

    from upscore.data.synthetic import SceneDataset

    folder.mkdir()
    scenes = SceneDataset(DIFFERENT, size=(HEIGHT, WIDTH))
    for number in range(PHOTOS):
        path = folder / f"{number:04}.jpg"
        if number < DIFFERENT:
            Image.fromarray(scenes[number].image.permute(1, 2, 0).numpy()).save(path, quality=QUALITY)
        else:
            shutil.copyfile(folder / f"{number % DIFFERENT:04}.jpg", path)
