"""The analysis of cues: which network sees what, what is trained only once, and what the numbers say in words."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import BACKBONE, QUICK, same, scenes, small, weights
from upscore.errors import UserError
from upscore.experiments.cues import run as analysis
from upscore.experiments.cues.conditions import ROWS, TRAINED, Cues, CueScores, Guess, mean_color
from upscore.experiments.cues.report import advice, choose_photos, cue_rows, definitions, markdown, plot_cues, strips
from upscore.experiments.cues.run import Experiment, count_classes, foreground_of, measure_cues
from upscore.experiments.cues.training_setup import TrainingSetup, budget, training_setup
from upscore.inference import evaluate, load
from upscore.training.callbacks import Callback
from upscore.training.recipes import MODERN
from upscore.training.run_folder import RunFolder

CLASSES = scenes(1).classes
RECIPE = small(MODERN, 4, **QUICK, colour=0.0, learning_rate=5e-3)


def experiment(folder: Path, *, foreground: list[str] | None = None, reference: Path | None = None) -> Experiment:
    setup = TrainingSetup(
        architecture={"name": "fcn8s", "backbone": BACKBONE, "num_classes": 8},
        recipe=RECIPE,
        weights="none",
        reference=reference,
    )
    chosen = foreground or CLASSES[1:]
    return Experiment(train=scenes(4), val=scenes(3, seed=9), foreground=chosen, setup=setup, output=folder)


def measure(asked: Experiment) -> Cues:
    return measure_cues(asked, count_classes(asked.val), workers=0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Cues]:
    """A finished analysis with a given reference; not to be changed."""
    folder = tmp_path_factory.mktemp("cues")
    asked = experiment(folder / "out")
    return asked, measure(asked)


@pytest.mark.slow
def test_every_network_is_tested_on_what_its_row_says(done: tuple[Experiment, Cues]) -> None:
    """The scores again, from the models on disk and photos masked here."""
    asked, cues = done
    for name, row in ROWS.items():
        trained = {"reference_fg": "reference", "reference_bg": "reference"}.get(name, name)
        predictor = load(asked.output / trained)
        seen = asked.masked(asked.val, row.tested, predictor.preprocessing)
        assert evaluate(predictor, seen).mean_iu == cues.scores[name].mean_iu  # pyright: ignore[reportAttributeAccessIssue]
    networks = [weights(asked.output / name / "best") for name in TRAINED]
    assert not any(same(networks[0], other) for other in networks[1:])
    assert sorted(path.name for path in asked.output.iterdir() if path.is_dir()) == sorted([*TRAINED, "scores"])


def test_only_what_they_see_tells_the_networks_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First weights, order, seed and recipe are the same; what is kept of the photos is not."""
    asked, started = experiment(tmp_path), []

    def fit(net, train, val, recipe, folder, **settings):  # type: ignore[no-untyped-def]
        started.append((net.state_dict(), train, val, recipe, settings))
        raise KeyboardInterrupt

    monkeypatch.setattr(analysis, "fit", fit)
    for name in TRAINED:
        with pytest.raises(KeyboardInterrupt):
            analysis._train(asked, name, 0, ())
    first = started[0]
    for (state, train, val, recipe, settings), name in zip(started, TRAINED, strict=True):
        assert same(state, first[0])
        assert recipe == first[3]
        assert recipe.colour == 0
        assert settings["seed"] == first[4]["seed"]
        for data in (train, val):
            assert (data.keep_foreground, data.keep_background) == ROWS[name].trained
            assert data.fill == first[1].fill == mean_color(asked.setup.build().preprocessing)


@pytest.mark.slow
def test_a_given_model_is_the_reference_and_is_not_trained(trained: Path, tmp_path: Path) -> None:
    before = weights(trained)
    asked = experiment(tmp_path, reference=trained)
    asked = replace(asked, foreground=["square", "triangle"])
    whole = evaluate(load(trained), asked.val)
    cues = measure(asked)
    assert not (tmp_path / "reference").exists()
    assert same(weights(trained), before)
    assert cues.scores["reference"].mean_iu == whole.mean_iu  # pyright: ignore[reportAttributeAccessIssue]
    assert cues.scores["reference_fg"] != cues.scores["reference"]
    assert cues.background == [name for name in CLASSES if name not in ("square", "triangle")]


@pytest.mark.slow
def test_what_is_finished_is_not_done_again(done: tuple[Experiment, Cues], monkeypatch: pytest.MonkeyPatch) -> None:
    asked, cues = done

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(analysis, "fit", refuse)
    monkeypatch.setattr(analysis, "evaluate", refuse)
    assert measure(asked) == cues


@pytest.mark.slow
def test_a_stopped_analysis_ends_as_one_that_was_not(done: tuple[Experiment, Cues], tmp_path: Path) -> None:
    asked = replace(done[0], output=tmp_path)

    class StopAtShape(Callback):
        def on_train_start(self, folder: RunFolder) -> None:
            self.name = folder.path.name

        def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
            if self.name == "shape":
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        measure_cues(asked, count_classes(asked.val), workers=0, callbacks=[StopAtShape()])
    assert not (tmp_path / "scores/shape.json").exists()
    assert (tmp_path / "shape/state.pt").exists()
    assert (tmp_path / "scores/bg_only.json").exists()
    started: list[str] = []

    class Names(Callback):
        def on_train_start(self, folder: RunFolder) -> None:
            started.append(folder.path.name)

    assert measure_cues(asked, count_classes(asked.val), workers=0, callbacks=[Names()]) == done[1]
    assert started == ["shape"]
    assert same(weights(tmp_path / "shape/best"), weights(done[0].output / "shape/best"))


@pytest.mark.slow
def test_a_folder_keeps_to_one_question(done: tuple[Experiment, Cues]) -> None:
    with pytest.raises(UserError, match="was started with foreground="):
        measure(replace(done[0], foreground=["square", "triangle"]))
    with pytest.raises(UserError, match="was started with seed=0, not 1"):
        measure(replace(done[0], seed=1))


def test_foreground_classes() -> None:
    assert foreground_of(["background", "a", "b"], None) == ["a", "b"]
    assert foreground_of(["sky", "a", "b"], ["b", "a"]) == ["a", "b"]
    with pytest.raises(UserError, match=r"sky, not background: .* --foreground, out of sky, a"):
        foreground_of(["sky", "a"], None)
    with pytest.raises(UserError, match="--foreground cat: there is no such class; there are sky, a"):
        foreground_of(["sky", "a"], ["cat"])
    for names in (["sky", "a"], []):
        with pytest.raises(UserError, match="no class is left"):
            foreground_of(["sky", "a"], names)


def test_questions_without_an_answer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="disk is the only foreground class"):
        experiment(tmp_path, foreground=["disk"])
    asked = experiment(tmp_path, foreground=["disk", "star"])
    counts = np.zeros((3, 8), np.int64)
    counts[:, 1] = 5
    with pytest.raises(UserError, match="the held-out photos have disk: hold out photos of two or more"):
        measure_cues(asked, counts, workers=0)
    assert not list(tmp_path.iterdir())


def test_the_subject_is_a_run_with_its_own_recipe(run: Path) -> None:
    setup = training_setup(str(run), CLASSES)
    card = json.loads((run / "best/model.json").read_text())
    assert setup.reference == run / "best"
    assert setup.architecture["backbone"] == BACKBONE
    assert setup.weights == "none"
    assert setup.recipe.model_dump(mode="json") == {**card["training"]["recipe"], "colour": 0}
    assert setup.colour == MODERN.colour
    assert setup.settings()["reference_sha256"]
    assert budget(setup, 50, epochs=3).recipe.images == 150
    assert budget(setup, 50, images=7, crop=32).recipe.crop == 32


def test_a_model_that_has_seen_photos_is_no_place_to_start(run: Path, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    for file in (run / "best").iterdir():
        (tmp_path / "best" / file.name).write_bytes(file.read_bytes())
    card = json.loads((tmp_path / "best/model.json").read_text())
    card["training"]["weights"] = str(run)
    (tmp_path / "best/model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="--weights"):
        training_setup(str(tmp_path), CLASSES)
    assert training_setup(str(tmp_path), CLASSES, weights="none").weights == "none"


def test_what_a_subject_cannot_be(run: Path) -> None:
    with pytest.raises(UserError, match="fcn9s"):
        training_setup("fcn9s", CLASSES)
    with pytest.raises(UserError, match="mask_rcnn"):
        training_setup("mask_rcnn", CLASSES)
    with pytest.raises(UserError, match="background, disk"):
        training_setup(str(run), ["sky", "car"])
    with pytest.raises(UserError, match="--backbone"):
        training_setup(str(run), CLASSES, backbone="vgg16")
    named = training_setup("fcn32s", CLASSES)
    for asked, words in (({"images": 0}, "--images 0"), ({"epochs": 0}, "--epochs 0"), ({"crop": -1}, "--crop -1")):
        with pytest.raises(UserError, match=words):
            budget(named, 10, **asked)
    with pytest.raises(UserError, match="give one of the two"):
        budget(named, 10, images=1, epochs=1)


def made(*ius: float, guess: float = 0.1, found: float = 0.5) -> Cues:
    """Cues with these foreground IUs, in the order of the rows."""
    scores = [CueScores(foreground_iu=iu, mean_iu=iu / 2, found=found, per_class={"a": iu, "b": iu}) for iu in ius]
    named = dict(zip(ROWS, scores, strict=True))
    return Cues(scores=named, foreground=["a", "b"], background=["c"], guess=Guess("a", guess), photos=7)


@pytest.mark.parametrize(
    ("ius", "words", "last"),
    [
        ((0.8, 0.79, 0.1, 0.78, 0.12, 0.6), ["75% of what the photo gives: outline matters more"], "Draw outlines"),
        (
            (0.8, 0.5, 0.1, 0.78, 0.5, 0.2),
            ["loses 30 points", "28 points better", "relies on the background"],
            "other places",
        ),
        ((0.8, 0.5, 0.4, 0.5, 0.5, 0.2), ["no better", "keeps 50% of its score"], "where they will"),
        ((0.8, 0.79, 0.1, 0.82, 0.3, 0.28), ["102% of", "no more than the outline of the holes"], "More photos"),
        ((0.8, 0.79, 0.1, 0.78, 0.5, 0.11), ["hardly more than calling every object a: outlines"], "in other light"),
        ((0.14, 0.1, 0.1, 0.1, 0.1, 0.1), [], "train it longer"),
    ],
)
def test_advice_follows_from_the_numbers(ius: tuple[float, ...], words: list[str], last: str) -> None:
    sentences = advice(made(*ius))
    for part in words:
        assert any(part in sentence for sentence in sentences), (part, sentences)
    assert last in sentences[-1]


def test_scores_of_few_pixels_are_not_read() -> None:
    """A reference that finds little may still name that little right."""
    few = made(0.8, 0.5, 0.1, 0.78, 0.5, 0.2, found=0.27)
    (sentence,) = advice(few)
    assert "only 27% of the objects' pixels" in sentence
    hidden = replace(few.scores["reference_bg"], found=0.14, foreground_iu=0.7)
    cues = made(0.8, 0.78, 0.7, 0.78, 0.5, 0.2)
    cues = replace(cues, scores={**cues.scores, "reference_bg": hidden})
    assert any("takes 14% of their pixels for objects: most are gone" in sentence for sentence in advice(cues))


def test_a_loss_within_a_few_points_is_no_reliance() -> None:
    sentences = advice(made(0.44, 0.40, 0.41, 0.44, 0.43, 0.59))
    assert not any("relies" in sentence for sentence in sentences)
    assert "other places" not in sentences[-1]


def test_the_paper_has_its_own_advice() -> None:
    """On its numbers: the surroundings add a little, shapes and backgrounds tell something, nothing misleads."""
    sentences = advice(made(*(row.paper for row in ROWS.values()), guess=0.05))
    assert "give 90% of what the photo gives: the surroundings add a little" in sentences[0]
    assert "34% of what the photo gives: outline and texture both count" in sentences[1]
    assert "45% of what the photo gives, 9 points more" in sentences[2]
    assert "keeps 96% of its score" in sentences[3]


def test_the_table_has_both_metrics_and_the_papers() -> None:
    cues = made(0.8, 0.5, 0.1, 0.4, 0.2, 0.3)
    rows = cue_rows(cues)
    assert rows[3] == ["FG-only", "keep/mask", "keep/mask", "40.0%", "50%", "76.1%", "90%", "20.0%", "50.0%"]
    assert rows[5][:3] == ["Shape", "mask/mask", "mask/mask"]
    page = markdown(cues, "x", ["Do this."], definitions(cues, (1, 2, 3), 0.3), ["a.png"])
    for words in ("- Do this.", "(1, 2, 3)", "Void", "changes of strength 0.3", "![a.png](a.png)", "76.1%"):
        assert words in page


def test_photos_are_chosen_for_their_objects() -> None:
    counts = np.zeros((6, 3), np.int64)
    counts[:, 0] = 1000
    counts[1, 1] = 500
    counts[2, 1:] = 100  # fewer pixels, but two classes
    counts[4, 2] = 1
    assert choose_photos(counts, [1, 2], 2) == [2, 4]
    assert choose_photos(counts, [1, 2], 10) == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_pictures_show_what_the_network_saw(done: tuple[Experiment, Cues], tmp_path: Path) -> None:
    asked, cues = done
    predictor = asked.predictor("shape")
    seen = asked.masked(asked.val, ROWS["shape"].tested, predictor.preprocessing)
    picture = np.asarray(strips(asked.val, seen, predictor, [0, 2], asked.indices, "the shape").convert("RGB"))
    assert picture.shape[1] > 4 * 480
    side = 480
    panel = picture[32 : 32 + side, :]  # below the titles
    flat = panel.reshape(-1, 3)
    for color in ((255, 255, 255), seen.fill):
        assert (flat == color).all(1).sum() > 500
    plot_cues([cues, cues], tmp_path / "cues.png")
    assert (tmp_path / "cues.png").stat().st_size > 10_000


def test_void_is_not_counted() -> None:
    data = scenes(1)

    class Cut:
        classes = data.classes

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
            sample = data[index]
            assert sample.class_map is not None
            sample.class_map[:32] = 255
            return sample

    assert count_classes(Cut()).sum() == 32 * 64
    assert torch.equal(torch.from_numpy(count_classes(data).sum(1)), torch.tensor([64 * 64]))
