"""Recipes of the FCN paper's tables, on small data in the published layouts."""

from __future__ import annotations

import json
import tarfile
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data import published
from tests.recipes.load import recipe
from tests.tiny import BACKBONE
from upscore.checkpoints import load_model
from upscore.errors import UserError

paper = recipe("fcn_paper")
SIZE = 40, 48


def options(output: Path, images: int = 2) -> list[str]:
    common = ["--backbone", BACKBONE, "--weights", "none", "--images", str(images), "--workers", "0"]
    return [*common, "--output", str(output)]


def row_of(page: Path, title: str) -> list[str]:
    (line,) = (line for line in page.read_text().splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_scores_match_a_calculation_by_hand() -> None:
    confusion = [[50, 10, 0], [20, 20, 0], [0, 0, 0]]
    pixel, accuracy, iu, weighted = paper.four_scores(confusion)
    assert pixel == pytest.approx(0.7)
    assert accuracy == pytest.approx((50 / 60 + 20 / 40) / 2)
    assert iu == pytest.approx((50 / 80 + 20 / 50) / 2)
    assert weighted == pytest.approx((60 * 50 / 80 + 40 * 20 / 50) / 100)
    # a predicted class without ground truth lowers the mean, unless `present` is set
    confusion = [[50, 0, 10], [20, 20, 0], [0, 0, 0]]
    assert paper.four_scores(confusion)[2] == pytest.approx((50 / 80 + 20 / 40 + 0) / 3)
    assert paper.four_scores(confusion, present=True)[2] == pytest.approx((50 / 80 + 20 / 40) / 2)
    # without class 0, its true pixels are not counted, but pixels that are predicted as class 0 are errors
    confusion = [[5, 3, 2], [4, 6, 0], [1, 0, 9]]
    pixel, accuracy, iu, _ = paper.four_scores(confusion, first=1)
    assert pixel == accuracy == pytest.approx(15 / 20)
    assert iu == pytest.approx((6 / 10 + 9 / 10) / 2)
    assert paper.four_scores([[0]]) == [0, 0, 0, 0]


def test_rows_come_after_those_that_they_start_from() -> None:
    assert paper.with_dependencies(paper.TABLES["table3"], ["fcn8s"]) == ["fcn32s", "fcn16s", "fcn8s"]
    assert paper.with_dependencies(paper.TABLES["table5"], ["late", "rgb"]) == ["rgb", "hha", "late"]
    for table in paper.TABLES.values():
        assert paper.with_dependencies(table, list(table.rows)) == list(table.rows)


def test_a_page_without_runs_has_the_published_scores() -> None:
    for name, table in paper.TABLES.items():
        page = paper.report(name, {})
        for row in table.rows.values():
            assert all(f"| {score}% |  |" in page for score in row.paper)
    assert "94.6%" in paper.report("table6", {})


@pytest.mark.parametrize("wrong", [["table3", "x"], ["table4", "x"], ["table5", "x", "--rows", "fcn8s"],
                                   ["table5", "x", "--caffe"], ["table5", "x", "--images", "0"]])  # fmt: skip
def test_invalid_arguments_are_rejected(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        paper.main(wrong)
    assert "error: " in capsys.readouterr().err


@pytest.mark.slow
def test_table3_and_table4(tmp_path: Path) -> None:
    names = ["v1", "v2", "v3"]
    voc = published.voc(tmp_path / "VOC2011", {"train": ["t1"], "val": names, "test": ["x1", "x2"]}, SIZE)
    sbd = published.sbd(tmp_path / "sbd", {"train": ["s1", "v1"]}, SIZE)
    listed = published.write_list(tmp_path / "some.txt", ["v3"])
    arguments = ["table3", str(voc), "--sbd", str(sbd), "--names", str(listed), *options(tmp_path / "runs")]
    paper.main(arguments)
    runs, page = tmp_path / "runs" / "table3", tmp_path / "runs" / "table3.md"
    assert all(all(row_of(page, row.title)) for row in paper.TABLES["table3"].rows.values())
    scores = json.loads((runs / "fcn8s" / "result.json").read_text())
    assert sum(map(sum, scores["confusion"])) == 2 * 40 * 48 // 3
    _, config = load_model(runs / "fcn8s" / "best")
    assert config.training["recipe"]["learning_rate"] == 1e-14
    assert not list(runs.glob("*/state.pt"))

    model = ["table4", str(voc), "--model", str(runs / "fcn8s"), "--output", str(tmp_path / "runs"), "--year", "2011"]
    paper.main(model)
    archive = tmp_path / "runs" / "table4" / "VOC2011" / "comp6_VOC2011.tar"
    with tarfile.open(archive) as file:
        inside = "results/VOC2011/Segmentation/comp6_test_cls"
        assert sorted(file.getnames()) == [f"{inside}/x1.png", f"{inside}/x2.png"]
        extracted = file.extractfile(f"{inside}/x1.png")
        assert extracted is not None
        with Image.open(extracted) as mask:
            assert (mask.mode, mask.size) == ("P", SIZE[::-1])
            assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
            assert np.asarray(mask).max() < 21
    with pytest.raises(UserError, match="--model: "):
        paper.main([*model[:2], "--model", str(runs / "fcn16s"), *model[4:]])


@pytest.mark.slow
def test_table5(tmp_path: Path) -> None:
    home = published.nyud(tmp_path / "nyud", size=SIZE)
    paper.main(["table5", str(home), *options(tmp_path / "runs")])
    runs, page = tmp_path / "runs" / "table5", tmp_path / "runs" / "table5.md"
    assert all(all(row_of(page, row.title)) for row in paper.TABLES["table5"].rows.values())
    nets = {name: load_model(runs / name)[0] for name in ("rgb", "rgbd", "hha", "late")}
    found = {name: (net.architecture["depth"], net.architecture["depth_channels"]) for name, net in nets.items()}
    assert found == {"rgb": ("none", 0), "rgbd": ("early", 1), "hha": ("only", 3), "late": ("late", 3)}
    assert nets["late"].backbone.depth_preprocessing == nets["hha"].backbone.depth_preprocessing
    assert load_model(runs / "rgb")[1].training["train_images"] == 3

    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
    paper.main(["table5", str(home), *options(tmp_path / "runs")])
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/result.json")} == before
    with pytest.raises(UserError, match="images: 2, not 3"):
        paper.main(["table5", str(home), *options(tmp_path / "runs", images=3)])


@pytest.mark.slow
def test_table6(tmp_path: Path) -> None:
    home = published.sift_flow(tmp_path / "SiftFlowDataset", size=SIZE)
    paper.main(["table6", str(home), *options(tmp_path / "runs"), "--rows", "fcn8s"])
    page = tmp_path / "runs" / "table6.md"
    cells = row_of(page, "FCN-8s")
    assert cells[1::2] == ["85.9%", "53.9%", "41.2%", "77.2%", "94.6%"]
    scores = json.loads((tmp_path / "runs" / "table6" / "fcn8s" / "result.json").read_text())
    assert cells[10] == f"{scores['geometric']['pixel_accuracy']:.1%}"
    net, config = load_model(tmp_path / "runs" / "table6" / "fcn8s")
    assert net.geometric_classes == ["sky", "horizontal", "vertical"]
    assert config.training["recipe"]["learning_rate"] == 1e-12
    assert config.training["train_images"] == 2


@pytest.mark.slow
def test_table7(tmp_path: Path) -> None:
    root = published.pascal_context(tmp_path / "context", size=SIZE)
    paper.main(["table7", str(root), *options(tmp_path / "runs"), "--rows", "fcn32s"])
    page = (tmp_path / "runs" / "table7.md").read_text()
    assert "over 59 classes" in page
    assert len(json.loads((tmp_path / "runs" / "table7" / "fcn32s" / "result.json").read_text())["confusion"]) == 60
    assert page.count("| FCN-32s |") == 2
    assert page.count("| FCN-8s |") == 1


@pytest.mark.slow
def test_caffe_weights_have_the_preprocessing_of_the_released_code(tmp_path: Path) -> None:
    from upscore.models.backbones.factory import build_backbone

    backbone = build_backbone(BACKBONE)
    torch.save(backbone.get_submodule("body").state_dict(), tmp_path / "classifier.pth")
    home = published.nyud(tmp_path / "nyud", size=SIZE)
    arguments = [*options(tmp_path / "runs"), "--caffe", "--weights", str(tmp_path / "classifier.pth")]
    paper.main(["table5", str(home), *arguments, "--rows", "rgbd"])
    net, _ = load_model(tmp_path / "runs" / "table5" / "rgbd")
    assert net.preprocessing.channel_order == "BGR"
    assert net.preprocessing.mean == (92.318, 97.203, 116.190)
    assert net.backbone.depth_preprocessing.mean == pytest.approx((7.844 - log(1000),))
    assert net.backbone.depth_preprocessing.std == (1.0,)
