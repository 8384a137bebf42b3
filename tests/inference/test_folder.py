"""Prediction of folders: files, interruptions, resuming, concurrent runs."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import upscore
from tests.tiny import StubModel, outputs
from upscore.data.io.images import read_image
from upscore.errors import UserError
from upscore.inference import Model
from upscore.inference.folder import predict_folder, warmup_sizes
from upscore.inference.outputs import find_images, write_prediction
from upscore.results import InstanceResult


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Model:
    return upscore.load(trained, engine="torch", precision="float32")


@pytest.fixture
def images(photos: Path) -> dict[str, Path]:
    return find_images([photos / "images"])


def test_files_equal_those_of_single_predictions(predictor: Model, images: dict[str, Path], tmp_path: Path) -> None:
    outcomes = list(predict_folder(predictor, images, tmp_path / "out", scores=True))
    assert [outcome.name for outcome in outcomes] == list(images)
    assert not any(outcome.error or outcome.before for outcome in outcomes)
    for name, path in images.items():
        write_prediction(predictor.predict(path, scores=True), tmp_path / "one" / name)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "one")
    assert len(outputs(tmp_path / "out")) == 3 * len(images)


def test_warmup_sizes(tmp_path: Path) -> None:
    def saved(*sizes: tuple[int, int]) -> list[Path]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for number, size in enumerate(sizes):
            Image.new("RGB", size[::-1]).save(folder / f"{number}.png")
        return sorted(folder.iterdir())

    assert warmup_sizes([]) == []
    assert warmup_sizes(saved((8, 9))) == [(8, 9)]
    assert warmup_sizes(saved((8, 9), (9, 8), (9, 8))) == [(9, 8), (8, 9)]
    assert warmup_sizes(saved(*((8, 8 + n) for n in range(5)))) == []
    assert warmup_sizes(saved((8, 9), (8, 9), (1, 1), (1, 2), (1, 3), (1, 4))) == [(8, 9)]
    turned, broken = tmp_path / "turned.jpg", tmp_path / "broken.png"
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 10)).save(turned, exif=exif)
    broken.write_bytes(b"not an image")
    assert warmup_sizes([turned, broken]) == [(20, 10)]
    assert tuple(read_image(turned).shape[1:]) == (20, 10)


def test_the_number_of_torch_threads_is_restored(trained: Path, images: dict[str, Path], tmp_path: Path) -> None:
    predictor = upscore.load(trained, engine="openvino", precision="float32")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        outcomes = predict_folder(predictor, images, tmp_path)
        next(outcomes)
        assert torch.get_num_threads() == 1
        outcomes.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_prediction_without_overlays(predictor: Model, images: dict[str, Path], tmp_path: Path) -> None:
    list(predict_folder(predictor, images, tmp_path, overlays=False))
    assert set(outputs(tmp_path)) == {f"{name}.png" for name in images}


class Stub(StubModel):
    """Model that detects as many objects as the grey value of an image; 200 is an error and 255 an interruption."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def predict(self, image, *, depth, scores, score_threshold):
        assert threading.current_thread() is threading.main_thread()
        count = int(image[0, 0, 0])
        if count == 255:
            raise KeyboardInterrupt
        if count == 200:
            raise UserError("200 objects")
        self.counts.append(count)
        boxes = [[4 * k, 3, 4 * k + 3, 9] for k in range(count)]
        return InstanceResult(
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            scores=np.linspace(0.9, 0.5, count, dtype=np.float32),
            labels=np.zeros(count, np.int64),
            masks=[np.ones((28, 28), np.float32)] * count,
            size=(16, 40),
            classes=self.classes,
            image=image.permute(1, 2, 0).numpy(),
        )


def grey(folder: Path, **values: int) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    for name, value in values.items():
        Image.fromarray(np.full((16, 40, 3), value, np.uint8)).save(folder / f"{name}.png")
    return find_images([folder])


def objects(output: Path) -> list[tuple[str, int]]:
    return [(r["file_name"], r["image_id"]) for r in json.loads((output / "instances.json").read_text())]


def test_an_image_with_an_error_does_not_stop_the_others(tmp_path: Path) -> None:
    paths = grey(tmp_path / "in", a=2, b=200, c=1, d=0)
    paths["c"].write_bytes(b"not an image")
    outcomes = list(predict_folder(Stub(), paths, tmp_path / "out"))  # type: ignore[arg-type]
    assert [(outcome.name, outcome.objects) for outcome in outcomes] == [("a", 2), ("b", 0), ("c", 0), ("d", 0)]
    assert ["200" in str(outcomes[1].error), "c.png" in str(outcomes[2].error)] == [True, True]
    assert set(outputs(tmp_path / "out")) == {
        "a_ids.png",
        "a_overlay.jpg",
        "d_ids.png",
        "d_overlay.jpg",
        "instances.json",
    }


def test_an_interrupted_run_keeps_the_finished_images(tmp_path: Path) -> None:
    paths = grey(tmp_path / "in", a=1, b=2, c=255, d=1)
    before = threading.active_count()
    outcomes = predict_folder(Stub(), paths, tmp_path / "out")  # type: ignore[arg-type]
    assert [next(outcomes).name for _ in range(2)] == ["a", "b"]
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)
    assert objects(tmp_path / "out") == [("a.png", 1), ("b.png", 2), ("b.png", 2)]
    assert threading.active_count() == before
    assert [path.suffix for path in (tmp_path / "out" / ".upscore").iterdir()] == [".jsonl"]


def test_a_closed_generator_keeps_the_finished_images(tmp_path: Path) -> None:
    paths = grey(tmp_path / "in", a=1, b=2, c=3, d=1, e=1, f=1)
    outcomes = predict_folder(Stub(), paths, tmp_path / "out")  # type: ignore[arg-type]
    next(outcomes)
    outcomes.close()
    assert objects(tmp_path / "out") == [("a.png", 1)]


def test_resuming_skips_finished_images(tmp_path: Path) -> None:
    paths = grey(tmp_path / "in", b=2, c=255, d=1, e=0)
    with pytest.raises(KeyboardInterrupt):
        list(predict_folder(Stub(), paths, tmp_path / "out"))  # type: ignore[arg-type]
    paths = grey(tmp_path / "in", a=4, c=3)  # which shifts the image ids
    stub = Stub()
    outcomes = list(predict_folder(stub, paths, tmp_path / "out", resume=True))  # type: ignore[arg-type]
    assert stub.counts == [4, 3, 1, 0]
    assert {outcome.name: (outcome.objects, outcome.before) for outcome in outcomes} == {
        **{"b": (2, True), "a": (4, False), "c": (3, False), "d": (1, False), "e": (0, False)}
    }
    expected = [*(("a.png", 1),) * 4, *(("b.png", 2),) * 2, *(("c.png", 3),) * 3, ("d.png", 4)]
    assert objects(tmp_path / "out") == expected
    (tmp_path / "out" / "c_ids.png").unlink()
    (tmp_path / "out" / "d_ids.png").write_bytes(b"cut")
    stub = Stub()
    list(predict_folder(stub, paths, tmp_path / "out", resume=True))  # type: ignore[arg-type]
    assert stub.counts == [3, 1]
    assert objects(tmp_path / "out") == expected
    assert len(list((tmp_path / "out" / ".upscore").iterdir())) == 1


def test_replaced_and_renamed_images_are_predicted_again(tmp_path: Path) -> None:
    paths = grey(tmp_path / "in", a=1, b=2, c=3, d=4)
    for path in paths.values():
        os.utime(path, ns=(0, 0))
        path.write_bytes(path.read_bytes().ljust(4096))  # all files have the same size
        os.utime(path, ns=(0, 0))
    list(predict_folder(Stub(), paths, tmp_path / "out"))  # type: ignore[arg-type]
    first, second = paths["a"], paths["b"]
    first.rename(tmp_path / "swap")
    second.rename(first)
    (tmp_path / "swap").rename(second)
    paths["d"].rename(tmp_path / "in" / "e.png")
    os.utime(paths["c"])  # only the modification time
    paths = find_images([tmp_path / "in"])
    stub = Stub()
    outcomes = list(predict_folder(stub, paths, tmp_path / "out", resume=True))  # type: ignore[arg-type]
    assert [outcome.name for outcome in outcomes if outcome.before] == ["c"]
    assert stub.counts == [2, 1, 4]


def test_resuming_with_another_model_or_other_options_is_an_error(tmp_path: Path) -> None:
    paths, output = grey(tmp_path / "in", a=1, b=2), tmp_path / "out"
    list(predict_folder(Stub(), paths, output))  # type: ignore[arg-type]
    other = Stub()
    other.training = {"data": "others"}  # type: ignore[misc]
    other.folder = None
    with pytest.raises(UserError, match="model"):
        next(predict_folder(other, paths, output, resume=True))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"score_threshold 0\.5.*0\.3"):
        next(predict_folder(Stub(), paths, output, score_threshold=0.3, resume=True))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"overlays True.*False"):
        next(predict_folder(Stub(), paths, output, overlays=False, resume=True))  # type: ignore[arg-type]
    list(predict_folder(other, {"a": paths["a"]}, output))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="model"):
        next(predict_folder(Stub(), paths, output, resume=True))  # type: ignore[arg-type]
    outcomes = list(predict_folder(other, paths, output, resume=True))  # type: ignore[arg-type]
    assert [(outcome.name, outcome.before) for outcome in outcomes] == [("a", True), ("b", False)]


def test_concurrent_detection_runs_into_one_output_are_an_error(tmp_path: Path) -> None:
    paths, output = grey(tmp_path / "in", a=1, b=2), tmp_path / "out"
    first = predict_folder(Stub(), paths, output)  # type: ignore[arg-type]
    next(first)
    with pytest.raises(UserError, match=f"process {os.getpid()} "):
        next(predict_folder(Stub(), paths, output))  # type: ignore[arg-type]
    list(first)
    assert objects(output) == [("a.png", 1), ("b.png", 2), ("b.png", 2)]
    assert len(list(predict_folder(Stub(), paths, output))) == 2  # type: ignore[arg-type]


def test_concurrent_segmentation_runs_into_one_output(
    predictor: Model, images: dict[str, Path], tmp_path: Path
) -> None:
    (one, path), *_ = images.items()
    first = predict_folder(predictor, images, tmp_path / "out")
    next(first)
    list(predict_folder(predictor, {"other": path}, tmp_path / "out"))
    with pytest.raises(UserError, match="--output"):
        next(predict_folder(predictor, images, tmp_path / "out", overlays=False))
    list(first)
    assert len(outputs(tmp_path / "out")) == 2 * (len(images) + 1)
    outcomes = predict_folder(predictor, {one: path, "other": path}, tmp_path / "out", resume=True)
    assert all(outcome.before for outcome in outcomes)


def test_resuming_segmentation(
    predictor: Model, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(predict_folder(predictor, images, tmp_path))
    expected, (first, second, *_) = outputs(tmp_path), images
    (tmp_path / f"{first}.png").unlink()
    (tmp_path / f"{second}_overlay.jpg").unlink()
    outcomes = list(predict_folder(predictor, images, tmp_path, resume=True))
    assert {outcome.name for outcome in outcomes if not outcome.before} == {first, second}
    assert len(outcomes) == len(images)
    assert outputs(tmp_path) == expected
    with pytest.raises(UserError, match=r"scores False.*True"):
        next(predict_folder(predictor, images, tmp_path, scores=True, resume=True))
