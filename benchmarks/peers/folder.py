"""Prediction of a folder to files compared with the network only, on decoded images in memory."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from peers.measure import Row, Side, Sides
from peers.shared import with_random_weights

IMAGES, HEIGHT, WIDTH, CLASSES = 500, 375, 500, 21
DIFFERENT = 25
"""Number of different images; the others are copies."""

QUALITY = 90
MAX_OVERHEAD = 1.15
"""Largest ratio of the time with files to that of the network only."""


def row() -> Row:
    """Return the row: JPEG files of scenes, to masks only, and to masks and overlays."""
    return Row(
        name="folder",
        work=f"folder of {IMAGES} JPEGs, {WIDTH}x{HEIGHT}, FCN-8s Lite0 bfloat16, to files",
        peer_name="the network only, images in memory",
        target={"masks": 1 / MAX_OVERHEAD},
        prepare=prepare,
    )


def prepare() -> Sides:
    """Write images to a temporary folder, and read them into memory."""
    from upscore.data.io.images import read_image
    from upscore.inference import Model
    from upscore.inference.folder import predict_folder
    from upscore.inference.outputs import find_images
    from upscore.models import build

    folder = Path(tempfile.mkdtemp(prefix="upscore-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_images(folder / "images")
    paths = find_images([folder / "images"])
    images = [read_image(path) for path in list(paths.values())[:DIFFERENT]]
    net = build("fcn8s", backbone="efficientnet_lite0", num_classes=CLASSES)
    model = Model(with_random_weights(net), "openvino", "bfloat16")  # pyright: ignore[reportArgumentType]

    def network_only() -> None:
        for number in range(IMAGES):
            model.predict(images[number % DIFFERENT])

    def predict_to_files(*, overlays: bool) -> Side:
        def side() -> None:
            for outcome in predict_folder(model, paths, folder / "out", overlays=overlays):
                assert outcome.error is None, outcome.error

        return side

    return {"masks": predict_to_files(overlays=False), "with overlays": predict_to_files(overlays=True)}, network_only


def write_images(folder: Path) -> None:
    """Write scenes as JPEG files, with copies."""
    from PIL import Image

    from upscore.data.synthetic import SceneDataset

    folder.mkdir()
    scenes = SceneDataset(DIFFERENT, size=(HEIGHT, WIDTH))
    for number in range(IMAGES):
        path = folder / f"{number:04}.jpg"
        if number < DIFFERENT:
            Image.fromarray(scenes[number].image.permute(1, 2, 0).numpy()).save(path, quality=QUALITY)
        else:
            shutil.copyfile(folder / f"{number % DIFFERENT:04}.jpg", path)
