"""The complete demo with small settings."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import upscore
from tests.demo.test_page import read
from upscore.data.datasets import subset
from upscore.data.synthetic import SceneDataset
from upscore.demo import nuclei
from upscore.demo import run as demo
from upscore.demo.nuclei import NucleiSettings
from upscore.demo.run import run
from upscore.demo.strides import PICTURE_WIDTH, THIN, Settings, choose_scenes, draw_scenes
from upscore.errors import UserError

TINY = Settings(side=64, train=8, validation=2, test=4, images=16, batch_size=4)
TINY_NUCLEI = NucleiSettings(images=8, min_side=64, crop=64, regions=16)


def test_no_scene_is_in_two_splits():
    splits = draw_scenes(TINY, 3, lambda done, total: None)
    scenes = [split[i].image for split in (splits.train, splits.validation, splits.test) for i in range(len(split))]
    assert len(scenes) == 14
    assert all(not torch.equal(a, b) for i, a in enumerate(scenes) for b in scenes[:i])


def test_chosen_scenes_have_a_thin_class_and_two_others():
    scenes = SceneDataset(60, seed=5, size=(64, 64))
    chosen = choose_scenes(scenes, 4)
    names = [{scenes.classes[k] for k in scenes[i].class_map.unique().tolist()} - {"background"} for i in chosen]
    assert all(shapes & set(THIN) and len(shapes - set(THIN)) >= 2 for shapes in names)
    assert chosen == sorted(chosen)


@pytest.mark.slow
def test_the_demo_writes_a_page_images_and_networks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "PHOTOGRAPHS", {"tripod": demo.PHOTOGRAPHS["tripod"]})
    images = nuclei.validation_images()
    names = [*nuclei.SHOWN, *nuclei.COMPARED]
    monkeypatch.setattr(
        nuclei, "validation_images", lambda: subset(images, [images.names.index(name) for name in names])
    )
    (tmp_path / "mine.txt").write_text("mine")
    page = run(tmp_path, seed=1, settings=TINY, nuclei_settings=TINY_NUCLEI)
    assert page == tmp_path / "report.html"
    reader = read(page.read_text(encoding="utf-8"))
    assert reader.ids == ["nuclei", "train", "heatmap", "strides", "own-images"]
    assert len(reader.images) - (2 * 4 + 2 * 6 + 4 * 4 + 2 + 3 + 4 * 5) in (0, 5)  # 5 more if a nucleus is found
    assert f"upscore predict {tmp_path}/nuclei" in capsys.readouterr().out

    pictures = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert {"heatmap_tripod.jpg", "strides.jpg", "curves_fcn8s.png", "confusion_fcn32s.png"} <= set(pictures)
    assert Image.open(tmp_path / "images/strides.jpg").width == PICTURE_WIDTH

    text = "".join(reader.text)
    for name in ("fcn32s", "fcn16s", "fcn8s"):
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in records] == [1, 2]
        prediction = upscore.load(tmp_path / name).predict(np.zeros((50, 70, 3), np.uint8))
        assert prediction.class_map.shape == (50, 70)
        assert not (tmp_path / name / "state.pt").exists()
    assert upscore.load(tmp_path / "nuclei").classes == ["nucleus"]
    assert not (tmp_path / "nuclei/state.pt").exists()
    assert f"{TINY_NUCLEI.images} random crops" in text

    (tmp_path / "fcn8s/run.json").write_text("{}")  # a training run in the same folder
    with pytest.raises(UserError, match="fcn8s"):
        run(tmp_path, settings=TINY)
    assert page.exists()
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_unwritable_file_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/demo.json").mkdir()  # a folder with the name of a file
    with pytest.raises(UserError, match=r"demo\.json"):
        run(tmp_path / "out", settings=TINY)
