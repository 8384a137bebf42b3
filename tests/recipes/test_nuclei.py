"""Recipe of nuclei: scores by modality, figure, export, and a short training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.recipes.load import recipe
from tests.tiny import BACKBONE, scenes
from upscore.checkpoints import load_model, save_model
from upscore.data.instance_datasets import open_instance_splits
from upscore.models.build import build

nuclei = recipe("nuclei")
COUNT = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 20 images with label maps; two of three have the modality fluorescence."""
    root = tmp_path_factory.mktemp("nuclei") / "nuclei"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    lines = ["id,width,height,nuclei,type"]
    for index in range(COUNT):
        sample = scenes(COUNT)[index]
        assert sample.objects is not None
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(root / "images" / f"{sample.name}.png")
        ids = sample.objects.id_map[0].numpy().astype(np.uint16)
        Image.fromarray(ids).save(root / "labels" / f"{sample.name}.png")
        modality = "fluorescence" if index % 3 else "colour_stained"
        lines.append(f"{sample.name},64,64,{len(sample.objects)},{modality}")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Network with random weights."""
    torch.manual_seed(0)
    sizes = {"channels": 16, "box_features": 16, "min_side": 64, "max_side": 128, "smallest_anchor": 8}
    net = build("mask_rcnn", backbone=BACKBONE, num_classes=1, **sizes)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, net, classes=["object"], training={"data": "/home/somebody/nuclei", "epoch": 3})
    return folder


def test_a_model_is_scored_by_modality_and_exported(data: Path, model: Path, tmp_path: Path) -> None:
    docs, shipped = tmp_path / "docs" / "results", tmp_path / "shipped"
    out = ["--output", str(tmp_path / "out")]
    nuclei.main([str(data), *out, "--model", str(model), "--docs", str(docs), "--export_half", str(shipped)])
    page = (docs / "nuclei.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:3] for line in page.splitlines() if "| " in line}
    _, val = open_instance_splits(data)
    samples = [val[index] for index in range(len(val))]
    stained = [sample for sample in samples if int(sample.name[-5:]) % 3 == 0]
    assert rows["all"] == [str(len(samples)), str(sum(len(sample.objects or []) for sample in samples))]
    assert rows["colour stained"] == [str(len(stained)), str(sum(len(sample.objects or []) for sample in stained))]
    assert int(rows["all"][0]) == int(rows["fluorescence"][0]) + int(rows["colour stained"][0]) == COUNT // 5
    assert "Training took" not in page  # a model folder does not contain it
    with Image.open(tmp_path / "out" / "nuclei.jpg") as picture:
        assert picture.height > 3 * nuclei.HEIGHT
        assert picture.width > len(samples) * nuclei.HEIGHT

    assert 2 * (shipped / "model.safetensors").stat().st_size < 1.1 * (model / "model.safetensors").stat().st_size
    net, config = load_model(shipped)
    assert config.training == {"data": "nuclei", "epoch": 3}
    half, whole = (source.state_dict() for source in (net, load_model(model)[0]))
    assert all(torch.allclose(half[name].float(), whole[name].float(), rtol=1e-3, atol=1e-6) for name in whole)


def test_a_model_that_is_too_large_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nuclei, "MAX_SIZE", 1000)
    with pytest.raises(SystemExit, match="shipped"):
        nuclei.export_half(model, tmp_path / "shipped")


def test_examples_alternate_between_modalities() -> None:
    def entries(modality: str, count: int) -> list:
        return [nuclei.Example(None, modality, None, None) for _ in range(count)]

    groups = {"b": entries("b", 6), "a": entries("a", 1), "c": entries("c", 6)}
    chosen = nuclei.choose_examples(groups)
    assert [entry.modality for entry in chosen] == ["a", "b", "b", "b", "c", "c"]
    assert chosen[1] is groups["b"][0]
    assert nuclei.choose_examples({"b": entries("b", 2)})[0].modality == "b"


def test_labels_are_drawn_inside_of_objects() -> None:
    sample = scenes()[0]
    assert sample.objects is not None
    image = sample.image.permute(1, 2, 0).numpy()
    changed = (np.asarray(nuclei.labels_overlay(image, sample.objects)) != image).any(-1)
    inside = sample.objects.id_map[0].numpy() > 0
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.99


@pytest.mark.slow
def test_training_and_scoring(data: Path, tmp_path: Path) -> None:
    (data.parent / "few").mkdir()
    for part in ("images", "labels"):
        (data.parent / "few" / part).mkdir()
        for path in sorted((data / part).iterdir())[:5]:
            (data.parent / "few" / part / path.name).write_bytes(path.read_bytes())
    run = tmp_path / "run"
    nuclei.main([str(data.parent / "few"), "--output", str(run), "--epochs", "1"])
    page = (run / "nuclei.md").read_text()
    assert "Training took" in page
    assert "| of unknown modality | 1 |" in page
    assert json.loads((run / "run.json").read_text())["backbone"] == "efficientnet_lite0"
    assert (run / "nuclei.jpg").exists()
    nuclei.export_half(run, tmp_path / "shipped")
