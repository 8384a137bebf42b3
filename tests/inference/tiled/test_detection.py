"""Detection in tiles: tiles, checkpoints, and agreement with the whole image."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from skimage.draw import disk

import upscore
from tests.inference.tiled.test_merge import TILING, IdRaster, detect, drawn, id_map, rectangle
from tests.tiny import tiny_net
from upscore.annotations import ObjectAnnotations
from upscore.data.io.rasters import InMemoryRaster, Window
from upscore.errors import UserError
from upscore.evaluation.object_matching import candidate_pairs, count_matches
from upscore.inference import Model
from upscore.inference.tiled.detection import Tiling, detect_objects, tile_detector
from upscore.inference.tiled.tile_store import TileCheckpoint
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.results import InstanceResult, as_instances

NUCLEI = Path(__file__).parents[3] / "../shared/data/nuclei"


@pytest.mark.parametrize("size", [(1, 1), (128, 128), (129, 96), (500, 317), (224, 225)])
def test_tiles_cover_an_image(size: tuple[int, int]) -> None:
    height, width = size
    times = np.zeros(size, np.int64)
    for top, left, rows, columns in TILING.windows(size):
        assert 0 < rows <= min(TILING.tile_size, height - top)
        assert 0 < columns <= min(TILING.tile_size, width - left)
        times[top : top + rows, left : left + columns] += 1
    assert times.min() == 1
    assert times.max() <= 4


def test_no_extra_tile_beyond_the_last_one() -> None:
    assert TILING.windows((128, 224)) == [Window(0, 0, 128, 128), Window(0, 96, 128, 128)]
    assert len(TILING.windows((128, 225))) == 3


@pytest.mark.parametrize(("tile_size", "overlap"), [(128, 0), (128, 65), (0, 0), (-4, -2)])
def test_invalid_tile_sizes_and_overlaps(tile_size: int, overlap: int) -> None:
    with pytest.raises(UserError, match=rf"tile_size={tile_size}\b"):
        Tiling(tile_size=tile_size, overlap=overlap)


def test_every_small_object_is_complete_in_the_core_of_a_tile() -> None:
    size, generator = (400, 500), np.random.default_rng(0)
    centres = generator.uniform([0, 0], [500, 400], (500, 2))
    extent = generator.uniform(1, 15, (500, 2))
    boxes = np.concatenate([centres - extent, centres + extent], 1)
    complete = np.zeros(500, bool)
    for window in TILING.windows(size):
        in_core, cut = TILING.in_core(boxes, window, size), TILING.is_cut(boxes, window, size)
        assert not (in_core & cut & (extent < 10).all(1)).any()
        complete |= in_core
    assert complete.all()


IDS = drawn((300, 400), *(rectangle(t, k, t + 30, k + 75) for t in range(5, 250, 50) for k in range(7, 320, 90)))


SETTINGS = {"image": "a.tif", "factor": 1.0}


def same(one: InstanceResult, other: InstanceResult) -> bool:
    masks = all(np.array_equal(a, b) for a, b in zip(one.masks, other.masks, strict=True))
    return masks and np.array_equal(one.boxes, other.boxes) and np.array_equal(one.scores, other.scores)


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    expected = detect_objects(IdRaster(IDS), detect, TILING)
    assert len(expected) == 20

    class StoppedError(Exception):
        pass

    def stop(done: int, _: int) -> None:
        if done == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        detect_objects(
            IdRaster(IDS), detect, TILING, checkpoint=TileCheckpoint(tmp_path / "tiles", SETTINGS), progress=stop
        )
    raster, calls = IdRaster(IDS), []
    checkpoint = TileCheckpoint(tmp_path / "tiles", SETTINGS)
    found = detect_objects(raster, detect, TILING, checkpoint=checkpoint, progress=lambda *done: calls.append(done))
    assert raster.reads == TILING.windows(IDS.shape)[5:]
    assert calls == [(n, 12) for n in range(1, 13)]
    assert same(found, expected)
    again = IdRaster(IDS)
    assert same(detect_objects(again, detect, TILING, checkpoint=checkpoint), expected)
    assert again.reads == []


def test_a_checkpoint_rejects_other_settings(tmp_path: Path) -> None:
    TileCheckpoint(tmp_path, SETTINGS)
    with pytest.raises(UserError, match=r"factor.*1\.0.*2\.0"):
        TileCheckpoint(tmp_path, {**SETTINGS, "factor": 2.0})
    with pytest.raises(UserError, match=r"model.*None.*nuclei"):
        TileCheckpoint(tmp_path, {**SETTINGS, "model": "nuclei"})
    with pytest.raises(UserError, match=r"image.*a\.tif.*None"):
        TileCheckpoint(tmp_path, {"factor": 1.0})


def test_a_truncated_tile_file_is_predicted_again(tmp_path: Path) -> None:
    checkpoint = TileCheckpoint(tmp_path, SETTINGS)
    expected = detect_objects(IdRaster(IDS), detect, TILING, checkpoint=checkpoint)
    file = tmp_path / "000003.npz"
    file.write_bytes(file.read_bytes()[:100])
    raster = IdRaster(IDS)
    assert same(detect_objects(raster, detect, TILING, checkpoint=checkpoint), expected)
    assert raster.reads == TILING.windows(IDS.shape)[3:4]


def test_a_tile_without_objects_is_done(tmp_path: Path) -> None:
    empty, checkpoint = IdRaster(np.zeros((100, 100), np.int64)), TileCheckpoint(tmp_path, SETTINGS)
    for _ in range(2):
        assert len(detect_objects(empty, detect, TILING, checkpoint=checkpoint)) == 0
    assert len(empty.reads) == 1


def test_coco_results_of_tiles(tmp_path: Path) -> None:
    found = detect_objects(IdRaster(IDS), detect, TILING)
    ids = id_map(found, 100)
    entries = found.to_coco(image_id=7, file_name="slide.tif")
    assert len(entries) == len(found) == 20
    for number, entry in enumerate(json.loads(json.dumps(entries)), start=1):
        assert (entry["image_id"], entry["category_id"], entry["file_name"]) == (7, 1, "slide.tif")
        assert np.array_equal(coco.decode(entry["segmentation"]) > 0, ids == number)


def test_run_lengths_of_an_image_that_does_not_fit_in_memory() -> None:
    found = InstanceResult(
        boxes=np.array([[60000, 50000, 60010, 50004]], np.float32),
        scores=np.ones(1, np.float32),
        labels=np.zeros(1, np.int64),
        masks=[np.ones((28, 28), np.float16)],
        size=(60000, 70000),
        classes=["thing"],
    )
    (entry,) = found.to_coco()
    assert coco.area(entry["segmentation"]) == 40
    assert coco.toBbox(entry["segmentation"]).tolist() == [60000, 50000, 10, 4]
    found.size = (70000, 70000)
    with pytest.raises(UserError, match="70000x70000 pixels"):
        found.to_coco()


def nuclei() -> Model:
    return upscore.load("nuclei", engine="torch", precision="float32")


@pytest.fixture(scope="module")
def model_of_nuclei() -> Model:
    """The nuclei model; tests must not modify it."""
    return nuclei()


@pytest.mark.parametrize(("size", "factor"), [((256, 256), 2.0), ((256, 320), 2.0), ((520, 600), 1.0)])
def test_a_tile_is_scaled_by_the_factor(model_of_nuclei: Model, size: tuple[int, int], factor: float) -> None:
    """The result equals that of an image which is resized by the same factor."""
    model = model_of_nuclei
    image = np.full((*size, 3), 20, np.uint8)
    for row in range(30, size[0] - 20, 60):
        image[disk((row, 40 + row // 2), 14)] = 150
    expected = as_instances(model.predict(image))
    found = tile_detector(model, factor=factor)(torch.from_numpy(image).permute(2, 0, 1))
    assert len(found) > 2
    for name in ("boxes", "scores", "labels", "masks"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert isinstance(model.module, MaskRCNN)
    assert model.module.resizing.min_side == 512


def test_tiling_for_min_side() -> None:
    assert Tiling.for_min_side(512) == Tiling(tile_size=512, overlap=64)
    assert Tiling.for_min_side(512, 2.0) == Tiling(tile_size=256, overlap=32)
    assert Tiling.for_min_side(800) == Tiling(tile_size=1024, overlap=128)
    assert Tiling.for_min_side(256) == Tiling(tile_size=320, overlap=64)


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.25])
def test_tiles_have_about_the_input_size_for_every_min_side(factor: float) -> None:
    for min_side in range(1, 2049):
        tiling = Tiling.for_min_side(min_side, factor)
        tile, overlap = tiling.tile_size * factor, tiling.overlap * factor
        assert max(128, 0.66 * min_side) <= tile <= max(128, 2 * min_side), min_side
        assert 64 <= overlap <= tile / 2, min_side
        assert (tile - overlap) % 64 == 0, min_side


def test_a_segmentation_model_or_a_factor_of_0_is_an_error(model_of_nuclei: Model) -> None:
    with pytest.raises(UserError, match="Mask R-CNN"):
        tile_detector(Model(tiny_net(), engine="torch"))
    with pytest.raises(UserError, match="factor=0"):
        tile_detector(model_of_nuclei, factor=0)


def mosaic(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a mosaic of nuclei images, (side, side, 3) uint8, and its object numbers, (side, side) int32."""
    if not NUCLEI.is_dir():
        pytest.skip("the labelled images of nuclei (../shared/data/nuclei) are not on this machine")
    with (NUCLEI / "index.csv").open() as file:
        names = [row["id"] for row in csv.DictReader(file) if row["width"] == row["height"] == "256"]
    image, ids = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.int32)
    corners = [(top, left) for top in range(0, side, 256) for left in range(0, side, 256)]
    for (top, left), name in zip(corners, names[:: len(names) // len(corners)], strict=False):
        rows, columns = slice(0, min(256, side - top)), slice(0, min(256, side - left))
        part = np.s_[top : top + 256, left : left + 256]
        image[part] = np.array(Image.open(NUCLEI / f"images/{name}.png").convert("RGB"))[rows, columns]
        labels = np.array(Image.open(NUCLEI / f"labels/{name}.png")).astype(np.int32)[rows, columns]
        ids[part] = np.where(labels > 0, labels + ids.max(), 0)
    return image, ids


def set_max_detections(net: MaskRCNN, count: int) -> None:
    """Set the largest number of detections per image."""
    net.settings = replace(net.settings, max_detections=count)
    net.rpn.inference_limits = replace(net.rpn.inference_limits, before_nms=4 * count, after_nms=4 * count)


def score(ids: np.ndarray, scores: np.ndarray, labelled: np.ndarray) -> float:
    objects = ObjectAnnotations.from_id_map(torch.from_numpy(labelled.astype(np.int32)))
    return count_matches([candidate_pairs(ids, scores, np.zeros(len(scores), np.int64), objects)], 0, 0.5).ap_dsb


@pytest.mark.slow
def test_nuclei_in_tiles_equal_those_of_the_whole_image() -> None:
    side = 704
    image, labelled = mosaic(side)
    raster = InMemoryRaster(torch.from_numpy(image).permute(2, 0, 1))
    net = nuclei().module
    assert isinstance(net, MaskRCNN)
    set_max_detections(net, 600 * side**2 // 384**2)  # the same number per pixel as in the tiles
    whole = tile_detector(Model(net, "torch", "float32"))(raster.image)
    whole_ids = whole.label_map()
    set_max_detections(net, 600)
    detect = tile_detector(Model(net, "torch", "float32"))
    tiling = Tiling(tile_size=384, overlap=64)
    merged = detect_objects(raster, detect, tiling)
    ids = id_map(merged)

    assert len(whole) > 200
    assert abs(score(ids, merged.scores, labelled) - score(whole_ids, whole.scores, labelled)) < 0.01
    assert score(ids, merged.scores, whole_ids) > 0.99

    seams = [320, 384]
    crossing = np.unique(np.concatenate([whole_ids[seams].ravel(), whole_ids[:, seams].ravel()]))[1:]
    assert len(crossing) > 10
    for number in crossing:
        pixels = whole_ids == number
        best = np.bincount(ids[pixels], minlength=1)[1:].argmax() + 1
        assert (pixels & (ids == best)).sum() > 0.8 * (pixels | (ids == best)).sum()
