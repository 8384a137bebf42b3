"""Tiled semantic segmentation of files: formats, resuming, errors, memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.inference.tiled.test_plan import balanced, random_image
from tests.tiny import BACKBONE
from upscore.checkpoints.model_folder import save_model
from upscore.data.io.rasters import open_raster
from upscore.errors import UserError
from upscore.inference import Model, load
from upscore.inference.tiled.semantic import predict_raster
from upscore.inference.tiled.tile_store import reduction
from upscore.models import build
from upscore.viz.colormaps import palette

HEIGHT, WIDTH = 601, 777
CLASSES = ["sky", "façade", "road", "tree", "car"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "streets"
    torch.manual_seed(0)
    net = balanced(build("fcn8s", backbone=BACKBONE, num_classes=5))
    save_model(folder, net, classes=CLASSES, max_side=200)
    return folder


@pytest.fixture(scope="module")
def predictor(model: Path) -> Model:
    return load(model, engine="torch", precision="float32")


@pytest.fixture(scope="module")
def whole(predictor: Model) -> np.ndarray:
    """Class map of the whole image at full resolution."""
    class_map = (
        Model(predictor.module, engine="torch", precision="float32").predict(random_image(HEIGHT, WIDTH)).class_map
    )
    assert class_map is not None
    assert len(np.unique(class_map)) > 2
    return class_map


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "town.tif"
    pixels = random_image(HEIGHT, WIDTH).permute(1, 2, 0).numpy()
    tags = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 1e5, 2e5, 0.0), True)]
    keys = [(34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True)]
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), compression="zlib", extratags=tags + keys)
    return path


def test_a_tiff_equals_the_class_map_of_the_whole_image(
    predictor: Model, source: Path, whole: np.ndarray, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    output = tmp_path / "out" / "town_classes.tif"
    written = predict_raster(
        predictor, source, output, tile_size=256, progress=lambda done, all_: calls.append((done, all_))
    )
    assert written == [output, tmp_path / "out" / "town_classes_overlay.jpg"]
    assert sorted(path.name for path in output.parent.iterdir()) == sorted(path.name for path in written)
    assert calls == [(number, 12) for number in range(1, 13)]
    assert predictor.max_side == 200
    with tifffile.TiffFile(output) as file:
        page = file.pages.first
        assert (page.is_tiled, page.compression.name, page.photometric.name) == (True, "ADOBE_DEFLATE", "PALETTE")
        assert page.colormap is not None
        assert np.array_equal((page.colormap >> 8).T[:5], palette(5))
        assert json.loads(page.description)["classes"] == CLASSES
        assert page.tags.valueof(33922) == (0.0, 0.0, 0.0, 1e5, 2e5, 0.0)
        assert np.array_equal(page.asarray(), whole)
    with Image.open(output) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), whole)
    with Image.open(written[1]) as overlay:
        assert overlay.width == WIDTH


def test_rasterio_reads_the_same_georeference(predictor: Model, source: Path, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
    predict_raster(predictor, source, tmp_path / "out.tif", tile_size=768)
    with rasterio.open(source) as one, rasterio.open(tmp_path / "out.tif") as other:
        assert one.crs == other.crs
        assert one.crs.to_epsg() == 32633
        assert one.transform == other.transform
        assert np.array_equal(other.read(1), tifffile.imread(tmp_path / "out.tif"))


def test_a_zarr_array_equals_the_class_map_of_the_whole_image(
    predictor: Model, source: Path, whole: np.ndarray, tmp_path: Path
) -> None:
    zarr = pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    output = tmp_path / "out.zarr"
    for _ in range(2):  # the second run replaces the output
        predict_raster(predictor, source, output, tile_size=256)
        array = zarr.open(str(output), mode="r")
        assert np.array_equal(array[:], whole)
        assert (array.chunks, array.attrs["classes"]) == ((256, 256), CLASSES)
    assert open_raster(output).read(0, 0, 5, 5).shape == (3, 5, 5)


def test_two_heads_write_two_class_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = balanced(build("fcn8s", backbone=BACKBONE, num_classes=5, geometric_classes=3))  # type: ignore[arg-type]
    predictor = Model(net, engine="torch", precision="float32")
    image = random_image(300, 400)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    written = predict_raster(predictor, tmp_path / "a.png", tmp_path / "b.tif", tile_size=256)
    names = ["b.tif", "b_overlay.jpg", "b_geometric.tif", "b_geometric_overlay.jpg"]
    assert [path.name for path in written] == names
    whole = predictor.predict(image)
    assert np.array_equal(tifffile.imread(written[0]), whole.class_map)
    assert np.array_equal(tifffile.imread(written[2]), whole.geometric.class_map)


RUN = """
import os, sys
from upscore.inference import load
from upscore.inference.tiled.semantic import predict_raster

def stop(done, total):
    if done == {last}:
        os.kill(os.getpid(), 9)

predictor = load(sys.argv[1], engine="torch", precision="float32")
predict_raster(predictor, sys.argv[2], sys.argv[3], tile_size=256, progress=stop)
"""


def test_a_killed_run_resumes_to_the_same_file(
    model: Path, predictor: Model, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, uninterrupted = tmp_path / "out.tif", tmp_path / "uninterrupted.tif"
    script = RUN.format(last=5)
    killed = subprocess.run([sys.executable, "-c", script, model, source, output], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    partial = tmp_path / ".out.tif.partial"
    assert len(list(partial.glob("*.npz"))) == 5
    (partial / "0_1.npz").write_bytes((partial / "0_1.npz").read_bytes()[:1000])  # simulates a power failure

    predicted: list[int] = []
    predict = predictor.class_maps
    monkeypatch.setattr(predictor, "class_maps", lambda pixels: predicted.append(1) or predict(pixels))
    predict_raster(predictor, source, output, tile_size=256)
    assert len(predicted) == 12 - 4
    assert not partial.exists()
    predict_raster(predictor, source, uninterrupted, tile_size=256)
    assert output.read_bytes() == uninterrupted.read_bytes()
    overlays = [path.with_name(f"{path.stem}_overlay.jpg").read_bytes() for path in (output, uninterrupted)]
    assert overlays[0] == overlays[1]


def test_tiles_of_a_run_with_other_settings_are_rejected(
    predictor: Model, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        predict_raster(predictor, source, output, tile_size=256, progress=interrupted)
    assert predictor.max_side == 200
    with pytest.raises(UserError, match=r"tile_size.*256.*512"):
        predict_raster(predictor, source, output, tile_size=512)
    monkeypatch.setattr(predictor, "training", {"epochs": 7})
    with pytest.raises(UserError, match="model"):
        predict_raster(predictor, source, output, tile_size=256)
    monkeypatch.undo()
    os.utime(source, (time.time() + 5, time.time() + 5))
    with pytest.raises(UserError, match="modified"):
        predict_raster(predictor, source, output, tile_size=256)


def test_a_changed_zarr_is_another_image(predictor: Model, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="the extra [zarr] is not installed")

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    image = zarr.create_array(str(tmp_path / "a.zarr"), shape=(300, 300, 3), chunks=(150, 150, 3), dtype="u1")
    image[:] = 1
    with pytest.raises(KeyboardInterrupt):
        predict_raster(predictor, tmp_path / "a.zarr", tmp_path / "out.tif", tile_size=256, progress=interrupted)
    time.sleep(0.02)
    image[200:, 200:] = 2
    with pytest.raises(UserError, match=r"out\.tif\.partial.*(bytes|modified|files)"):
        predict_raster(predictor, tmp_path / "a.zarr", tmp_path / "out.tif", tile_size=256)


def test_invalid_arguments_raise_before_the_first_tile(predictor: Model, source: Path, tmp_path: Path) -> None:
    for output, message in (
        (tmp_path / "out.png", r"out\.png"),
        (source, r"town\.tif"),
    ):
        with pytest.raises(UserError, match=message):
            predict_raster(predictor, source, output)
    (tmp_path / "mine.zarr").mkdir()
    tifffile.imwrite(tmp_path / "mine.tif", np.zeros((4, 4), np.uint8))
    (tmp_path / "words.tif").write_text("words")
    for name in ("mine.zarr", "mine.tif", "words.tif"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            predict_raster(predictor, source, tmp_path / name)
    with pytest.raises(UserError, match="multiple of 256"):
        predict_raster(predictor, source, tmp_path / "out.tif", tile_size=200)
    objects = Model(build("mask_rcnn", backbone=BACKBONE, num_classes=2), engine="torch")
    with pytest.raises(UserError, match="predict_objects"):
        predict_raster(objects, source, tmp_path / "out.tif")
    late = Model(build("fcn8s", backbone=BACKBONE, num_classes=2, depth="late", depth_channels=1), engine="torch")
    with pytest.raises(UserError, match="depth"):
        predict_raster(late, source, tmp_path / "out.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.tif",
        "mine.zarr",
        "town.tif",
        "words.tif",
    ]


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_an_earlier_output_is_replaced(predictor: Model, source: Path, tmp_path: Path, name: str) -> None:
    for _ in range(2):
        assert tmp_path / name in predict_raster(predictor, source, tmp_path / name)


def test_the_overview_has_at_most_2048_pixels_a_side() -> None:
    for height, width in ((10, 2048), (2049, 10), (30_000, 30_000), (500_000, 3)):
        factor = reduction(height, width)
        assert 256 % factor == 0
        assert max(height, width) <= 2048 * factor
        assert factor == 1 or max(height, width) > 1024 * factor


HUGE = """
import re, sys
from pathlib import Path
import torch
from tests.tiny import BACKBONE
from upscore.data.io import tiff
from upscore.inference import Model
from upscore.inference.tiled.semantic import predict_raster
from upscore.models import build

tiff.CACHE_BYTES = 1 << 24  # so that both images fill the cache
torch.set_num_threads(1)
predictor = Model(build("fcn32s", backbone=BACKBONE, num_classes=3), engine="torch", precision="float32")
predict_raster(predictor, sys.argv[1] + ".tif", sys.argv[1] + "_out.tif", tile_size=1024)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """Twice the pixels need only a few more megabytes, for one row of compressed tiles."""
    peaks = []
    for side in (4096, 6144):
        path = tmp_path / str(side)
        blocks: Any = (b"" for _ in range((side // 512) ** 2))
        shape = (side, side, 3)
        tifffile.imwrite(f"{path}.tif", blocks, shape=shape, dtype=np.uint8, tile=(512, 512), compression="zlib")
        # freed memory is returned to the system at once, so that the peak is the memory in use
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}
        root = Path(__file__).parents[3]
        command = [sys.executable, "-c", HUGE, str(path)]
        run = subprocess.run(command, check=True, capture_output=True, cwd=root, env=environment, timeout=250)
        peaks.append(int(run.stdout) << 10)
        assert tifffile.imread(f"{path}_out.tif").shape == (side, side)
    assert peaks[1] - peaks[0] < 4096**2  # a byte for each pixel of the smaller image
