"""Training with depth input and a second label map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tests.models.networks import randomise_scores
from tests.tiny import BACKBONE, QUICK, batch_of, scenes, small, tiny_net, weights
from upscore.checkpoints import load_model, save_model
from upscore.data.datasets import Subset
from upscore.data.synthetic import SceneDataset
from upscore.errors import UserError
from upscore.evaluation.semantic import TwoHeadedScores
from upscore.inference import evaluate, load
from upscore.models.build import Option, build
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.preprocessing import IMAGENET, LITE0, DepthPreprocessing
from upscore.training.dataset_stats import fit_depth_preprocessing
from upscore.training.init_weights import load_initial_weights
from upscore.training.recipes import HEAVY, MODERN
from upscore.training.train import train
from upscore.training.trainer import Trainer


def build_net(name: str = "fcn16s", *, data: SceneDataset | None = None, seed: int = 0, **options: Option) -> FCN:
    """Build a network for scenes with random score layers."""
    torch.manual_seed(seed)
    net = build(name, backbone=BACKBONE, num_classes=8, **options)
    data = data or scenes(2)
    net.classes = data.classes
    randomise_scores(net)
    if isinstance(net, TwoHeads):
        net.geometric_classes = data.geometric_classes
        for layer in net.geometric.score.values():
            nn.init.normal_(layer.weight)  # type: ignore[arg-type]
    return net.eval()


def saved(net: FCN, path: Path) -> Path:
    save_model(path, net, classes=net.classes)
    return path


def outputs(net: FCN, seed: int = 0) -> Tensor:
    channels = 3 if net.backbone.depth_preprocessing is None else 4
    images = torch.randn(1, channels, 64, 64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return net.eval()(images)


@pytest.mark.parametrize(
    "options", [{"geometric_classes": 3}, {"depth": "early"}, {"depth": "late"}, {"depth": "only"}]
)
def test_training_lowers_the_loss_which_is_the_sum_of_its_terms(options: dict[str, Option]) -> None:
    net = build_net(**options)
    if net.backbone.depth_preprocessing is not None:
        net.backbone.depth_preprocessing = fit_depth_preprocessing(scenes(4), net.preprocessing)
    trainer = Trainer(net, small(MODERN, learning_rate=2e-3, ema=0), Accelerator())
    batch = batch_of(scenes(4), 0, 1, 2, 3)
    trainer.train_mode()
    losses = [trainer.step([batch], 1.0) for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    parts = trainer.progress.parts
    assert set(parts) == ({"semantic", "geometric"} if "geometric_classes" in options else set())
    if parts:
        assert sum(parts.values()) == pytest.approx(sum(losses), rel=1e-4)
    loss, scores = trainer.validate([batch])
    assert loss > 0
    assert isinstance(scores, TwoHeadedScores) == ("geometric_classes" in options)
    recorded = trainer.task.record(scores)
    assert ("geometric_pixel_accuracy" in recorded) == ("geometric_classes" in options)


def test_rgb_networks_get_no_depth_and_no_second_label_map() -> None:
    trainer = Trainer(tiny_net(), small(HEAVY), Accelerator())
    sample = trainer.task.resize(trainer.net, 0)(scenes(1)[0])
    assert sample.depth is None
    assert sample.geometric_map is None
    batch = batch_of(scenes(2), 0, 1)  # with both
    assert torch.equal(
        trainer.task.inputs(trainer.net, batch, torch.device("cpu")), trainer.net.preprocessing(batch.images)
    )


@pytest.mark.parametrize(
    "options",
    [{"geometric_classes": 3}, {"depth": "early"}, {"depth": "late"}, {"geometric_classes": 3, "depth": "only"}],
)
def test_model_folders_keep_geometric_classes_and_depth(options: dict[str, Option], tmp_path: Path) -> None:
    net = build_net(**options)
    if "depth" in options:
        net.backbone.depth_preprocessing = DepthPreprocessing(mean=(2.5,), std=(0.25,))
    loaded, config = load_model(saved(net, tmp_path / "model"))
    assert isinstance(loaded, FCN)
    assert type(loaded) is type(net)
    assert loaded.architecture == net.architecture
    assert loaded.backbone.depth_preprocessing == net.backbone.depth_preprocessing
    assert config.geometric_classes == (["ground", "lying", "stacked"] if "geometric_classes" in options else [])
    assert getattr(loaded, "geometric_classes", []) == config.geometric_classes
    assert torch.equal(outputs(loaded), outputs(net))

    path = tmp_path / "model" / "model.json"
    text = json.loads(path.read_text())
    if "depth" in options:
        text["depth_preprocessing"]["std"] = [0.25, 1.0]
    else:
        text["geometric_classes"].pop()
    path.write_text(json.dumps(text))
    with pytest.raises(UserError, match=r"model\.json: (depth_preprocessing|geometric_classes)"):
        load_model(tmp_path / "model")


def test_model_json_without_newer_fields_loads(tmp_path: Path) -> None:
    net = build_net()
    path = saved(net, tmp_path / "model") / "model.json"
    config = json.loads(path.read_text())
    for field in ("geometric_classes", "depth_preprocessing"):
        del config[field]
    for field in ("geometric_classes", "depth", "depth_channels"):
        del config["architecture"][field]
    path.write_text(json.dumps(config))
    loaded, _ = load_model(tmp_path / "model")
    assert isinstance(loaded, FCN)
    assert torch.equal(outputs(loaded), outputs(net))


def test_two_heads_start_from_one_head_or_two_heads(tmp_path: Path) -> None:
    one = build_net("fcn32s")
    both = build("fcn16s", backbone=BACKBONE, num_classes=8, geometric_classes=3)
    assert isinstance(both, TwoHeads)
    both.classes, both.geometric_classes = one.classes, scenes(1).geometric_classes
    load_initial_weights(both, saved(one, tmp_path / "one"))
    assert all(torch.equal(both.state_dict()[name], value) for name, value in one.state_dict().items())
    assert not any(parameter.any() for parameter in both.geometric.score.parameters())

    finer = build("fcn8s", backbone=BACKBONE, num_classes=8, geometric_classes=3)
    assert isinstance(finer, TwoHeads)
    finer.classes, finer.geometric_classes = both.classes, both.geometric_classes
    nn.init.ones_(both.geometric.score["16"].weight)
    load_initial_weights(finer, saved(both, tmp_path / "both"))
    assert finer.geometric.score["16"].weight.all()
    finer.geometric_classes = ["other", "names", "here"]
    nn.init.zeros_(finer.geometric.score["16"].weight)
    load_initial_weights(finer, tmp_path / "both")
    assert not finer.geometric.score["16"].weight.any()


@pytest.mark.parametrize("fusion", ["early", "late", "only"])
def test_networks_with_depth_start_from_rgb_networks(fusion: str, tmp_path: Path) -> None:
    colour = build_net()
    net = build("fcn16s", backbone=BACKBONE, num_classes=8, depth=fusion)
    net.classes = colour.classes
    load_initial_weights(net, saved(colour, tmp_path / "colour"))
    images = torch.randn(1, 3, 64, 64)
    inputs = torch.cat([images, torch.zeros(1, 1, 64, 64)], 1)
    with torch.no_grad():
        maps, expected = net.eval().backbone(inputs), colour.backbone(images)
    channels = colour.backbone.channels[32]
    if fusion == "early":
        with torch.no_grad():
            assert torch.allclose(net(inputs), colour(images), atol=1e-5)
    elif fusion == "late":
        assert torch.allclose(maps[32][:, :channels], expected[32] / 2, atol=1e-5)
    else:
        assert torch.allclose(maps[32], colour.backbone(0 * images)[32], atol=1e-5)
    # score layers are copied only for features of the same type
    assert any(parameter.any() for parameter in net.score.parameters()) == (fusion == "early")
    with pytest.raises(UserError, match=f"--depth {fusion}.*--depth none"):
        load_initial_weights(build_net(), saved(net, tmp_path / "net"))


def test_late_fusion_starts_as_the_mean_of_two_networks(tmp_path: Path) -> None:
    colour, depth = build_net(seed=1), build_net(seed=2, depth="only")
    depth.backbone.depth_preprocessing = DepthPreprocessing(mean=(2.0,), std=(0.5,))
    folders = saved(colour, tmp_path / "colour"), saved(depth, tmp_path / "depth")
    late = build("fcn16s", backbone=BACKBONE, num_classes=8, depth="late")
    late.classes = colour.classes
    load_initial_weights(late, *folders)
    inputs = torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        mean = (colour(inputs[:, :3]) + depth(inputs)) / 2
        assert torch.allclose(late.eval()(inputs), mean, atol=1e-4)
    assert late.backbone.depth_preprocessing == depth.backbone.depth_preprocessing
    with pytest.raises(UserError, match=r"--depth-weights .*colour"):
        load_initial_weights(late, folders[0], folders[0])
    with pytest.raises(UserError, match=r"--weights .*depth"):
        load_initial_weights(late, folders[1], folders[1])
    with pytest.raises(UserError, match="--depth late"):
        load_initial_weights(build_net(depth="early"), *folders)


def test_preprocessed_depth_has_the_standard_deviation_of_preprocessed_images() -> None:
    depths = torch.stack([sample.depth for sample in scenes(5) if sample.depth is not None])
    known = depths[depths.isfinite()].log()
    for colours in (IMAGENET, LITE0):
        found = fit_depth_preprocessing(scenes(5), colours)
        assert found.mean[0] == pytest.approx(known.mean().item(), rel=1e-4)
        spread = found(depths)[depths.isfinite()].std().item()
        assert spread == pytest.approx(np.mean(IMAGENET.std) / np.mean(colours.std), rel=1e-3)


@pytest.mark.slow
def test_train_and_evaluate_with_geometric_classes_and_depth(tmp_path: Path) -> None:
    common = {"backbone": BACKBONE, "weights": "none", "epochs": 1, "changes": QUICK, "workers": 0}
    train("scenes:4", tmp_path / "run", model="fcn16s", geometric=True, depth="early", **common)  # type: ignore[arg-type]
    predictor = load(tmp_path / "run")
    assert predictor.geometric_classes == ["ground", "lying", "stacked"]
    assert predictor.depth_channels == 1
    data = SceneDataset(3, seed=9, size=(50, 70))
    scores = evaluate(predictor, data)
    assert isinstance(scores, TwoHeadedScores)
    assert list(scores.geometric.per_class) == data.geometric_classes
    assert sum(scores.geometric.pixels.values()) == 3 * 50 * 70
    assert isinstance(scores.to_json()["geometric"], dict)
    state = weights(tmp_path / "run" / "best")
    assert {"geometric.score.32.weight", "score.32.weight"} <= state.keys()

    train("scenes:4", tmp_path / "only", model="fcn16s", depth="only", **common)  # type: ignore[arg-type]
    train("scenes:4", tmp_path / "colour", model="fcn16s", **common)  # type: ignore[arg-type]
    late = {**common, "weights": tmp_path / "colour", "depth_weights": tmp_path / "only", "depth": "late"}
    train("scenes:4", tmp_path / "late", model="fcn16s", **late)  # type: ignore[arg-type]
    assert (
        load(tmp_path / "late").module.backbone.depth_preprocessing
        == load(tmp_path / "only").module.backbone.depth_preprocessing
    )
    assert type(evaluate(load(tmp_path / "only"), Subset(data, [0]))) is not TwoHeadedScores


def test_missing_depth_and_label_maps_are_user_errors(tmp_path: Path) -> None:
    from tests.tiny import write_photos

    folder = write_photos(tmp_path / "photos", 3)
    for options, option in (({"geometric": True}, "--geometric"), ({"depth": "early"}, "--depth early")):
        with pytest.raises(UserError, match=option):
            train(folder, tmp_path / "run", backbone=BACKBONE, weights="none", **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"--geometric .*mask_rcnn"):
        train("scenes:4", tmp_path / "run", model="mask_rcnn", geometric=True)
