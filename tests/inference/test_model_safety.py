"""Prediction changes neither inputs, module nor process; it is thread-safe; lists and streams keep order."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import upscore
from tests.tiny import BACKBONE, scenes, tiny_net
from upscore.checkpoints import load_model
from upscore.inference import Model
from upscore.models import build
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.results import InstanceResult, SemanticResult

ENGINES = ["torch", "openvino"]


def images(count: int, side: int = 64) -> list[np.ndarray]:
    dataset = scenes(count, seed=3, side=side)
    return [dataset[index].image.permute(1, 2, 0).numpy().copy() for index in range(count)]


def detector() -> MaskRCNN:
    torch.manual_seed(0)
    net = build("mask_rcnn", backbone=BACKBONE, num_classes=2, min_side=64, max_side=128)
    net.score_threshold = 0.05
    return net


def same(one: SemanticResult | InstanceResult, other: SemanticResult | InstanceResult) -> bool:
    if isinstance(one, SemanticResult):
        assert isinstance(other, SemanticResult)
        return np.array_equal(one.class_map, other.class_map) and np.array_equal(one.scores, other.scores)
    assert isinstance(other, InstanceResult)
    return (
        np.array_equal(one.boxes, other.boxes)
        and np.array_equal(one.scores, other.scores)
        and np.array_equal(one.labels, other.labels)
        and all(np.array_equal(*masks) for masks in zip(one.masks, other.masks, strict=True))
    )


def close(one: SemanticResult | InstanceResult, other: SemanticResult | InstanceResult) -> bool:
    """Return whether results are equal apart from rounding in float32, or float16 for probabilities."""
    if isinstance(one, SemanticResult):
        assert isinstance(other, SemanticResult)
        scores = [result.scores.astype(np.float32) for result in (one, other) if result.scores is not None]
        return bool((one.class_map == other.class_map).mean() > 0.999) and np.allclose(*scores, atol=1e-3)
    assert isinstance(other, InstanceResult)
    return (
        np.allclose(one.boxes, other.boxes, atol=1e-2)
        and np.allclose(one.scores, other.scores, atol=1e-4)
        and np.array_equal(one.labels, other.labels)
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", ["semantic", "instances"])
def test_prediction_does_not_change_the_module(engine: str, task: str) -> None:
    net = (tiny_net() if task == "semantic" else detector()).train()
    net.backbone.eval()  # layers have different modes
    modes = [module.training for module in net.modules()]
    state = copy.deepcopy(net.state_dict())
    strides = [p.stride() for p in net.parameters()]
    identities = [*map(id, net.parameters())]
    next(net.parameters()).grad = torch.ones_like(next(net.parameters()))
    model = Model(net, engine, "float32")
    model.predict(images(1)[0])
    assert model.module is net
    assert [module.training for module in net.modules()] == modes
    assert [p.stride() for p in net.parameters()] == strides
    assert [*map(id, net.parameters())] == identities
    assert all(p.requires_grad for p in net.parameters())
    assert bool((next(net.parameters()).grad == 1).all())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("engine", ENGINES)
def test_changed_weights_do_not_affect_a_compiled_model(trained: Path, engine: str) -> None:
    net, _ = load_model(trained)
    model, image = Model(net, engine, "float32"), images(1)[0]
    before = model.predict(image, scores=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(-1)
    assert same(model.predict(image, scores=True), before)
    assert not same(Model(net, engine, "float32").predict(image, scores=True), before)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", ["semantic", "instances"])
def test_eight_threads_give_the_results_of_one(trained: Path, engine: str, task: str) -> None:
    net = load_model(trained)[0] if task == "semantic" else detector()
    inputs = [image[: 40 + 3 * n, : 64 - 2 * n] for n, image in enumerate(images(6))]
    scores = task == "semantic"
    expected = [Model(net, engine, "float32").predict(image, scores=scores) for image in inputs]
    model = Model(net, engine, "float32")  # compiled by the first thread
    start = threading.Barrier(8)

    def predict(thread: int) -> list[Any]:
        start.wait(60)
        order = [(n + thread) % len(inputs) for n in range(len(inputs))]
        return [(n, model.predict(inputs[n], scores=scores)) for n in order]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(predict, range(8)):
            assert all(same(result, expected[n]) for n, result in found)


def process_state() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(),
        [*warnings.filters],
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
    )


@pytest.mark.parametrize("engine", [*ENGINES, "onnxruntime"])
def test_prediction_does_not_change_the_process(
    trained: Path, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path))
    network = tiny_net()
    before = process_state()

    def work(number: int) -> None:
        upscore.load(trained, engine=engine, precision="float32").predict(images(1)[0])
        Model(network, engine, "float32").predict(images(1)[0])  # type: ignore[arg-type]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert process_state() == before


def test_overlapping_folder_runs_restore_the_number_of_threads(trained: Path, photos: Path, tmp_path: Path) -> None:
    from upscore.inference.folder import predict_folder

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        files = {path.stem: path for path in sorted((photos / "images").glob("*.png"))[:3]}
        runs = [
            predict_folder(upscore.load(trained, engine="openvino", precision="float32"), files, tmp_path / f"{n}")
            for n in range(2)
        ]
        for run in runs:  # both start, then the first ends before the second
            next(run)
        for run in runs:
            run.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_inputs_are_neither_changed_nor_aliased(trained: Path, make: Callable[[np.ndarray], Any]) -> None:
    model = upscore.load(trained, engine="torch", precision="float32")
    image = images(1)[0]
    given = make(image if make is np.asarray else np.ascontiguousarray(image.transpose(2, 0, 1)))
    before = np.array(given, copy=True)
    result = model.predict(given)
    assert result.image is not None
    kept = result.image.copy()
    assert np.array_equal(np.asarray(given), before)
    given[:] = 0
    assert np.array_equal(result.image, kept)
    assert kept.any()


@pytest.fixture(params=["semantic", "instances"])
def model(request: pytest.FixtureRequest, trained: Path) -> Model:
    net = load_model(trained)[0] if request.param == "semantic" else detector()
    return Model(net, "torch", "float32")


def test_a_list_gives_a_list(model: Model, tmp_path: Path) -> None:
    inputs = images(3)
    results = model.predict(inputs)
    assert isinstance(results, list)
    assert len(results) == 3
    for image, result in zip(inputs, results, strict=True):
        assert same(result, model.predict(image))
        assert result.image is not None
        assert np.array_equal(result.image, image)
    assert model.predict([]) == []
    assert len(model.predict(tuple(inputs[:1]))) == 1


@pytest.mark.slow
def test_batches_agree_with_single_images(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, images are predicted one by one with bit-identical results. Forced batches agree up to rounding."""
    inputs = [image[: 33 + n % 3, : 64 - n % 2] for n, image in enumerate(images(7))]  # equal after padding
    inputs.insert(3, images(1, side=96)[0])
    scores = model.task == "semantic"
    single = [model.predict(image, scores=scores) for image in inputs]
    batch_sizes: list[int] = []
    run = "classify" if scores else "detect"
    for one, other in zip(single, model.stream(inputs, batch_size=5, scores=scores), strict=True):
        assert same(one, other)
    session, original = model.session, getattr(model.session, run)
    monkeypatch.setattr(session, "batches", True)
    monkeypatch.setattr(
        session,
        run,
        lambda inputs, *rest, **named: (
            batch_sizes.append(len(inputs)),
            original(inputs, *rest, **named),
        )[1],
    )
    batched = list(model.stream(inputs, batch_size=5, scores=scores))
    assert max(batch_sizes) > 1
    assert sum(batch_sizes) == len(inputs)
    for one, other in zip(single, batched, strict=True):
        assert one.image is not None
        assert other.image is not None
        assert np.array_equal(one.image, other.image)
        assert close(one, other)


def test_a_stream_keeps_order_and_stops_its_threads(model: Model) -> None:
    inputs = images(4)
    expected = [model.predict(image) for image in inputs]
    requested: list[int] = []

    def endless() -> Any:
        number = 0
        while True:
            requested.append(number)
            yield inputs[number % len(inputs)]
            number += 1

    before = set(threading.enumerate())
    with closing(model.stream(endless(), batch_size=2)) as results:
        for number in range(6):
            assert same(next(results), expected[number % len(inputs)])
    assert len(requested) < 20
    assert set(threading.enumerate()) == before


def test_the_error_of_an_image_is_raised_in_its_place_of_the_stream(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: list[Any] = [*images(2), "nowhere.png", *images(1)]
    monkeypatch.setattr(model.session, "batches", True)
    results = model.stream(inputs, batch_size=4)
    assert len([next(results), next(results)]) == 2
    with pytest.raises(upscore.errors.UserError, match=r"nowhere\.png"):
        next(results)


@pytest.mark.parametrize("images", ["a.png", b"", np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4), None, 3])
def test_invalid_arguments_of_stream(model: Model, images: Any) -> None:
    with pytest.raises(upscore.errors.UserError, match="iterable"):
        model.stream(images)
    for size in (0, "2", 1.5):
        with pytest.raises(upscore.errors.UserError, match=f"batch_size={size!r} is invalid"):
            model.stream([], batch_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", ["x", [0.5], 2])
def test_invalid_thresholds(threshold: Any) -> None:
    with pytest.raises(upscore.errors.UserError, match=r"score_threshold=.* is invalid"):
        Model(detector(), "torch", "float32").predict(images(1)[0], score_threshold=threshold)


@pytest.mark.parametrize("max_side", ["a", -1, None])
def test_an_invalid_longest_side(max_side: Any) -> None:
    with pytest.raises(upscore.errors.UserError, match=f"max_side={max_side!r} is invalid"):
        Model(tiny_net(), "torch", "float32", max_side=max_side)
