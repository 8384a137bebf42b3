"""Depth from files and arrays, and prediction with depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.models.networks import randomise_scores
from tests.tiny import BACKBONE, scenes
from upscore.checkpoints import save_model
from upscore.cli.predict import predict as predict_verb
from upscore.data.io.depth import as_depth, find_depth
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.inference import evaluate
from upscore.inference.model import Model
from upscore.models.build import build
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.preprocessing import DepthPreprocessing

MILLIMETRES = np.array([[0, 500, 65535], [1000, 1500, 2000]], np.uint16)
EXPECTED = np.where(MILLIMETRES == 0, np.nan, MILLIMETRES / 1000).astype(np.float32)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_integers_in_files_are_millimetres(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        Image.fromarray(MILLIMETRES).save(path)
    elif suffix == ".tif":
        tifffile.imwrite(path, MILLIMETRES)
    else:
        np.save(path, MILLIMETRES)
    depth = as_depth(path, 1, (2, 3))
    assert (depth.shape, depth.dtype) == ((1, 2, 3), torch.float32)
    assert np.array_equal(depth[0].numpy(), EXPECTED, equal_nan=True)
    assert find_depth(tmp_path, "a") == path
    with pytest.raises(UserError, match=r"b: .*png"):
        find_depth(tmp_path, "b")


def test_floats_are_metres_and_three_channels_are_hha(tmp_path: Path) -> None:
    metres = np.array([[0.0, np.inf, -1.5], [1, 2, np.nan]], np.float64)
    tifffile.imwrite(tmp_path / "a.tif", metres.astype(np.float32))
    for given in (metres, metres[None], torch.from_numpy(metres), tmp_path / "a.tif"):
        depth = as_depth(given, 1, (2, 3))
        assert np.array_equal(depth[0].numpy(), [[0, np.nan, -1.5], [1, 2, np.nan]], equal_nan=True)
    hha = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(hha).save(tmp_path / "hha.png")
    for given in (hha, hha.transpose(2, 0, 1), tmp_path / "hha.png"):
        assert np.array_equal(as_depth(given, 3, (4, 5)).numpy(), hha.transpose(2, 0, 1))  # 0 is a valid value of HHA


@pytest.mark.parametrize(
    ("depth", "match"),
    [
        (np.zeros((3, 2)), ".3, 2.*1 channels.*2 rows"),
        (np.zeros((3, 2, 3)), "1 channels"),
        (np.zeros((2, 3), bool), "bool"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_wrong_shapes_types_and_missing_files_are_refused(depth: np.ndarray | str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        as_depth(depth, 1, (2, 3))


def test_npy_files_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy"):
        as_depth(tmp_path / "a.npy", 1, (2, 3))


def model(**options: str | int) -> Model:
    net = randomise_scores(build("fcn8s", backbone=BACKBONE, num_classes=8, **options))
    net.classes = scenes(1).classes
    if isinstance(net, TwoHeads):
        net.geometric_classes = scenes(1).geometric_classes
        torch.nn.init.normal_(net.geometric.score["32"].weight)
    if net.backbone.depth_preprocessing is not None:
        net.backbone.depth_preprocessing = DepthPreprocessing(mean=(float(np.log(2.1)),), std=(0.2,))
    return Model(net, precision="float32", max_side=48)


def test_depth_changes_the_prediction_and_is_required() -> None:
    predictor, sample = model(depth="early"), scenes(1)[0]
    with pytest.raises(UserError, match=r"depth .*1 channel"):
        predictor.predict(sample.image)
    near, far = (predictor.predict(sample.image, depth=np.full((64, 64), metres), scores=True) for metres in (1.5, 3.0))
    assert near.scores is not None
    assert far.scores is not None
    assert np.abs(near.scores - far.scores).max() > 0.01
    unknown = predictor.predict(sample.image, depth=np.full((64, 64), np.nan), scores=True)
    mean = predictor.predict(sample.image, depth=np.full((64, 64), 2.1), scores=True)
    assert np.allclose(unknown.scores, mean.scores, atol=1e-3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no depth input"):
        model().predict(sample.image, depth=sample.depth)
    correct = [
        (predictor.predict(scene.image, depth=scene.depth).class_map == scene.class_map.numpy()).mean()
        for scene in map(scenes(2).__getitem__, range(2))
    ]
    assert evaluate(predictor, scenes(2)).pixel_accuracy == pytest.approx(np.mean(correct))  # type: ignore[union-attr]
    without = Sample(name="bare", image=sample.image, class_map=sample.class_map)
    bare = type("Bare", (), {"classes": scenes(1).classes, "__len__": lambda _: 1, "__getitem__": lambda *_: without})()
    with pytest.raises(UserError, match="bare has no depth"):
        evaluate(predictor, bare)


def test_predict_reads_depth_from_a_folder_and_writes_both_maps(tmp_path: Path) -> None:
    net = model(depth="late", geometric_classes=3).module
    save_model(tmp_path / "model", net, classes=net.classes)
    for folder in ("rgb", "depth"):
        (tmp_path / folder).mkdir()
    for index in range(2):
        sample = scenes(2)[index]
        assert sample.depth is not None
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(tmp_path / "rgb" / f"{sample.name}.png")
        if index == 0:
            np.save(tmp_path / "depth" / f"{sample.name}.npy", sample.depth.numpy())
    arguments = (str(tmp_path / "model"), [tmp_path / "rgb"])
    assert predict_verb(*arguments, output=tmp_path / "out", depth=tmp_path / "depth") == 1  # the second has none
    written = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    endings = (".png", "_overlay.jpg", "_geometric.png", "_geometric_overlay.jpg")
    assert written == {f"scene_00000{ending}" for ending in endings}
    with Image.open(tmp_path / "out" / "scene_00000_geometric.png") as picture:
        assert set(np.unique(np.array(picture))) <= {0, 1, 2}
    with pytest.raises(UserError, match="--depth FOLDER"):
        predict_verb(*arguments, output=tmp_path / "out2")
