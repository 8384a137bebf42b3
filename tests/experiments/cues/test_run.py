"""The cue experiment: training, scores, resumption, reports."""

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
from upscore.experiments.cues.conditions import CONDITIONS, TRAINED_CONDITIONS, Cues, CueScores, Guess, mean_color
from upscore.experiments.cues.report import (
    advice,
    choose_images,
    cue_rows,
    definitions,
    markdown,
    plot_cues,
    prediction_rows,
)
from upscore.experiments.cues.run import Experiment, count_classes, measure_cues, select_foreground
from upscore.experiments.cues.training_setup import TrainingSetup, budget, training_setup
from upscore.inference import evaluate, load
from upscore.training.callbacks import Callback
from upscore.training.recipes import MODERN
from upscore.training.run_folder import RunFolder

CLASSES = scenes(1).classes
RECIPE = small(MODERN, 4, **QUICK, colour=0.0, learning_rate=5e-3)


def make_experiment(folder: Path, *, foreground: list[str] | None = None, reference: Path | None = None) -> Experiment:
    setup = TrainingSetup(
        architecture={"name": "fcn8s", "backbone": BACKBONE, "num_classes": 8},
        recipe=RECIPE,
        weights="none",
        reference=reference,
    )
    chosen = foreground or CLASSES[1:]
    return Experiment(train=scenes(4), val=scenes(3, seed=9), foreground=chosen, setup=setup, output=folder)


def measure(experiment: Experiment) -> Cues:
    return measure_cues(experiment, count_classes(experiment.val), workers=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Cues]:
    """A finished experiment without a given reference; tests must not change it."""
    folder = tmp_path_factory.mktemp("cues")
    experiment = make_experiment(folder / "out")
    return experiment, measure(experiment)


@pytest.mark.slow
def test_scores_agree_with_the_saved_models(finished: tuple[Experiment, Cues]) -> None:
    """The scores are computed again from the saved models and masked images."""
    experiment, cues = finished
    for name, row in CONDITIONS.items():
        trained = {"reference_fg": "reference", "reference_bg": "reference"}.get(name, name)
        model = load(experiment.output / trained)
        masked = experiment.masked(experiment.val, row.tested, model.preprocessing)
        assert evaluate(model, masked).mean_iu == cues.scores[name].mean_iu  # pyright: ignore[reportAttributeAccessIssue]
    networks = [weights(experiment.output / name / "best") for name in TRAINED_CONDITIONS]
    assert not any(same(networks[0], other) for other in networks[1:])
    assert sorted(path.name for path in experiment.output.iterdir() if path.is_dir()) == sorted(
        [*TRAINED_CONDITIONS, "scores"]
    )


def test_networks_differ_in_visible_parts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Initial weights, seed and recipe are equal for all conditions."""
    experiment, runs = make_experiment(tmp_path), []

    def fit(net, train, val, recipe, folder, **settings):  # type: ignore[no-untyped-def]
        runs.append((net.state_dict(), train, val, recipe, settings))
        raise KeyboardInterrupt

    monkeypatch.setattr(analysis, "fit", fit)
    for name in TRAINED_CONDITIONS:
        with pytest.raises(KeyboardInterrupt):
            analysis._train(experiment, name, 0, ())
    first = runs[0]
    for (state, train, val, recipe, settings), name in zip(runs, TRAINED_CONDITIONS, strict=True):
        assert same(state, first[0])
        assert recipe == first[3]
        assert recipe.colour == 0
        assert settings["seed"] == first[4]["seed"]
        for data in (train, val):
            assert (data.keep_foreground, data.keep_background) == CONDITIONS[name].trained
            assert data.fill == first[1].fill == mean_color(experiment.setup.build().preprocessing)


@pytest.mark.slow
def test_a_given_model_is_the_reference_and_is_not_changed(trained: Path, tmp_path: Path) -> None:
    before = weights(trained)
    experiment = make_experiment(tmp_path, reference=trained)
    experiment = replace(experiment, foreground=["square", "triangle"])
    expected = evaluate(load(trained), experiment.val)
    cues = measure(experiment)
    assert not (tmp_path / "reference").exists()
    assert same(weights(trained), before)
    assert cues.scores["reference"].mean_iu == expected.mean_iu  # pyright: ignore[reportAttributeAccessIssue]
    assert cues.scores["reference_fg"] != cues.scores["reference"]
    assert cues.background == [name for name in CLASSES if name not in ("square", "triangle")]


@pytest.mark.slow
def test_finished_conditions_are_not_repeated(
    finished: tuple[Experiment, Cues], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, cues = finished

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(analysis, "fit", refuse)
    monkeypatch.setattr(analysis, "evaluate", refuse)
    assert measure(experiment) == cues


@pytest.mark.slow
def test_a_resumed_experiment_equals_an_uninterrupted_one(finished: tuple[Experiment, Cues], tmp_path: Path) -> None:
    experiment = replace(finished[0], output=tmp_path)

    class StopAtShape(Callback):
        def on_train_start(self, folder: RunFolder) -> None:
            self.name = folder.path.name

        def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
            if self.name == "shape":
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        measure_cues(experiment, count_classes(experiment.val), workers=0, callbacks=[StopAtShape()])
    assert not (tmp_path / "scores/shape.json").exists()
    assert (tmp_path / "shape/state.pt").exists()
    assert (tmp_path / "scores/bg_only.json").exists()
    runs: list[str] = []

    class Names(Callback):
        def on_train_start(self, folder: RunFolder) -> None:
            runs.append(folder.path.name)

    assert measure_cues(experiment, count_classes(experiment.val), workers=0, callbacks=[Names()]) == finished[1]
    assert runs == ["shape"]
    assert same(weights(tmp_path / "shape/best"), weights(finished[0].output / "shape/best"))


@pytest.mark.slow
def test_a_folder_is_not_used_for_another_experiment(finished: tuple[Experiment, Cues]) -> None:
    with pytest.raises(UserError, match="foreground: "):
        measure(replace(finished[0], foreground=["square", "triangle"]))
    with pytest.raises(UserError, match="--seed: 0, not 1"):
        measure(replace(finished[0], seed=1))


def test_select_foreground() -> None:
    assert select_foreground(["background", "a", "b"], None) == ["a", "b"]
    assert select_foreground(["sky", "a", "b"], ["b", "a"]) == ["a", "b"]
    with pytest.raises(UserError, match=r"sky.*--foreground.*sky, a"):
        select_foreground(["sky", "a"], None)
    with pytest.raises(UserError, match=r"--foreground cat.*sky, a"):
        select_foreground(["sky", "a"], ["cat"])
    for names in (["sky", "a"], []):
        with pytest.raises(UserError, match="--foreground"):
            select_foreground(["sky", "a"], names)


def test_too_few_foreground_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="disk"):
        make_experiment(tmp_path, foreground=["disk"])
    experiment = make_experiment(tmp_path, foreground=["disk", "star"])
    counts = np.zeros((3, 8), np.int64)
    counts[:, 1] = 5
    with pytest.raises(UserError, match="disk"):
        measure_cues(experiment, counts, workers=0)
    assert not list(tmp_path.iterdir())


def test_the_setup_of_a_run_has_its_recipe(run: Path) -> None:
    setup = training_setup(str(run), CLASSES)
    config = json.loads((run / "best/model.json").read_text())
    assert setup.reference == run / "best"
    assert setup.architecture["backbone"] == BACKBONE
    assert setup.weights == "none"
    assert setup.recipe.model_dump(mode="json") == {**config["training"]["recipe"], "colour": 0}
    assert setup.colour == MODERN.colour
    assert setup.settings()["reference_sha256"]
    assert budget(setup, 50, epochs=3).recipe.images == 150
    assert budget(setup, 50, images=7, crop=32).recipe.crop == 32


def test_initial_weights_from_unmasked_images_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    for file in (run / "best").iterdir():
        (tmp_path / "best" / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "best/model.json").read_text())
    config["training"]["weights"] = str(run)
    (tmp_path / "best/model.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="--weights"):
        training_setup(str(tmp_path), CLASSES)
    assert training_setup(str(tmp_path), CLASSES, weights="none").weights == "none"


def test_invalid_models_and_options_are_named(run: Path) -> None:
    with pytest.raises(UserError, match="fcn9s"):
        training_setup("fcn9s", CLASSES)
    with pytest.raises(UserError, match="mask_rcnn"):
        training_setup("mask_rcnn", CLASSES)
    with pytest.raises(UserError, match="background, disk"):
        training_setup(str(run), ["sky", "car"])
    with pytest.raises(UserError, match="--backbone"):
        training_setup(str(run), CLASSES, backbone="vgg16")
    named = training_setup("fcn32s", CLASSES)
    for options, values in (
        ({"images": 0}, "--images 0"),
        ({"epochs": 0}, "--epochs 0"),
        ({"crop": -1}, "--crop -1"),
    ):
        with pytest.raises(UserError, match=values):
            budget(named, 10, **options)
    with pytest.raises(UserError, match=r"--images 1 .*--epochs 1"):
        budget(named, 10, images=1, epochs=1)


def make_cues(*ius: float, guess: float = 0.1, found: float = 0.5) -> Cues:
    """Return cues with the given foreground IoUs, in the order of the conditions."""
    scores = [CueScores(foreground_iu=iu, mean_iu=iu / 2, found=found, per_class={"a": iu, "b": iu}) for iu in ius]
    named = dict(zip(CONDITIONS, scores, strict=True))
    return Cues(scores=named, foreground=["a", "b"], background=["c"], guess=Guess("a", guess), images=7)


@pytest.mark.parametrize(
    ("ius", "values", "last"),
    [
        ((0.8, 0.79, 0.1, 0.78, 0.12, 0.6), ["75% of", "shape matters more"], "exact outlines"),
        ((0.8, 0.5, 0.1, 0.78, 0.5, 0.2), ["30 points", "28 points", "relies on the background"], "other backgrounds"),
        ((0.8, 0.5, 0.4, 0.5, 0.5, 0.2), ["30 points", "50% of its score"], "backgrounds of the application"),
        ((0.8, 0.79, 0.1, 0.82, 0.3, 0.28), ["102% of", "not higher than with the shape"], "same type"),
        ((0.8, 0.79, 0.1, 0.78, 0.5, 0.11), ["the prediction a for all objects"], "lighting"),
        ((0.14, 0.1, 0.1, 0.1, 0.1, 0.1), [], "train it longer"),
    ],
)
def test_advice_depends_on_the_scores(ius: tuple[float, ...], values: list[str], last: str) -> None:
    sentences = advice(make_cues(*ius))
    for part in values:
        assert any(part in sentence for sentence in sentences), (part, sentences)
    assert last in sentences[-1]


def test_scores_of_few_detected_pixels_are_not_interpreted() -> None:
    """A reference that detects few pixels may still classify them correctly."""
    few = make_cues(0.8, 0.5, 0.1, 0.78, 0.5, 0.2, found=0.27)
    (sentence,) = advice(few)
    assert "27%" in sentence
    hidden = replace(few.scores["reference_bg"], found=0.14, foreground_iu=0.7)
    cues = make_cues(0.8, 0.78, 0.7, 0.78, 0.5, 0.2)
    cues = replace(cues, scores={**cues.scores, "reference_bg": hidden})
    assert any("14% of their pixels" in sentence for sentence in advice(cues))


def test_a_small_loss_is_no_reliance() -> None:
    sentences = advice(make_cues(0.44, 0.40, 0.41, 0.44, 0.43, 0.59))
    assert not any("more than necessary" in sentence for sentence in sentences)
    assert "other backgrounds" not in sentences[-1]


def test_advice_for_the_scores_of_the_paper() -> None:
    """In the paper, the background has a small effect, and both shape and background are informative."""
    sentences = advice(make_cues(*(row.paper for row in CONDITIONS.values()), guess=0.05))
    for sentence, values in zip(
        sentences, (("90%", "small"), ("34%", "both"), ("45%", "9 points"), ("96%",)), strict=False
    ):
        assert all(value in sentence for value in values), (sentence, values)


def test_the_table_has_both_scores_and_the_paper() -> None:
    cues = make_cues(0.8, 0.5, 0.1, 0.4, 0.2, 0.3)
    rows = cue_rows(cues)
    assert rows[3] == ["FG-only", "keep/mask", "keep/mask", "40.0%", "50%", "76.1%", "90%", "20.0%", "50.0%"]
    assert rows[5][:3] == ["Shape", "mask/mask", "mask/mask"]
    page = markdown(cues, "x", ["Do this."], definitions(cues, (1, 2, 3), 0.3), ["a.png"])
    for value in ("- Do this.", "(1, 2, 3)", "Void", "strength 0.3", "![a.png](a.png)", "76.1%"):
        assert value in page


def test_images_with_objects_are_chosen() -> None:
    counts = np.zeros((6, 3), np.int64)
    counts[:, 0] = 1000
    counts[1, 1] = 500
    counts[2, 1:] = 100  # fewer pixels, but two classes
    counts[4, 2] = 1
    assert choose_images(counts, [1, 2], 2) == [2, 4]
    assert choose_images(counts, [1, 2], 10) == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_figures_show_masked_images(finished: tuple[Experiment, Cues], tmp_path: Path) -> None:
    experiment, cues = finished
    model = experiment.model_for("shape")
    masked = experiment.masked(experiment.val, CONDITIONS["shape"].tested, model.preprocessing)
    picture = np.asarray(
        prediction_rows(experiment.val, masked, model, [0, 2], experiment.indices, "the shape").convert("RGB")
    )
    assert picture.shape[1] > 4 * 480
    side = 480
    panel = picture[32 : 32 + side, :]  # below the titles
    flat = panel.reshape(-1, 3)
    for color in ((255, 255, 255), masked.fill):
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
