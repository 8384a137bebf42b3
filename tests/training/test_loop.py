from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import RECIPES, metrics, outcome, same, scenes, small, tiny_net, weights
from upscore.checkpoints import load_model
from upscore.data.transforms import Batch
from upscore.errors import UserError
from upscore.evaluation.semantic import SemanticScores
from upscore.training.callbacks import Callback
from upscore.training.loop import count_epochs, count_steps, fit
from upscore.training.recipes import MODERN, Recipe
from upscore.training.run_folder import RunFolder
from upscore.training.trainer import DivergedError, Progress, Trainer


def train(folder: Path, recipe: Recipe, **options: Any) -> Progress:
    net = tiny_net()
    return fit(net, scenes(6), scenes(2, seed=1), recipe, RunFolder(folder), max_side=0, **options)


class Stop(Callback):
    """Calls `act` once `step` steps, or `epoch` epochs, are done."""

    def __init__(self, act: Any, *, step: int = 0, epoch: int = 0) -> None:
        self.act, self.at_step, self.at_epoch = act, step, epoch

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        if step == self.at_step:
            self.act()

    def on_epoch_end(self, records: list[dict[str, Any]], scores: SemanticScores | None, is_best: bool) -> None:
        if len(records) == self.at_epoch:
            self.act()


class KilledError(Exception):
    """Stands for a process that ends without a chance to save."""


def kill() -> None:
    raise KilledError


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each recipe comes to."""
    folders = {name: tmp_path_factory.mktemp(name) / "run" for name in RECIPES}
    for name, folder in folders.items():
        train(folder, RECIPES[name])
    return {name: outcome(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_goes_on_ends_as_if_it_had_not_stopped(
    recipe: str, tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]
) -> None:
    """Ctrl-C in the middle of the first epoch, then a kill in the second, which so begins again."""
    in_epoch = {"modern": (1, 3), "heavy": (4, 9), "accum": (1, 3)}[recipe]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", RECIPES[recipe], callbacks=[Stop(interrupt, step=in_epoch[0])])
    state = RunFolder(tmp_path / "run").load_state()
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (0, in_epoch[0])
    assert 0 < state["progress"]["position"] < 6
    with pytest.raises(KilledError):
        train(tmp_path / "run", RECIPES[recipe], resume=True, callbacks=[Stop(kill, step=in_epoch[1])])
    assert len(metrics(tmp_path / "run")) == 1
    progress = train(tmp_path / "run", RECIPES[recipe], resume=True)
    assert progress.epoch == 2
    assert same(outcome(tmp_path / "run"), uninterrupted[recipe])


def test_a_worker_changes_nothing(tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", RECIPES["modern"], workers=1, callbacks=[Stop(terminate, step=1)])
    train(tmp_path / "run", RECIPES["modern"], workers=1, resume=True)
    assert same(outcome(tmp_path / "run"), uninterrupted["modern"])


def test_another_seed_gives_other_weights(tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]) -> None:
    train(tmp_path / "run", RECIPES["modern"], seed=1)
    ours, theirs = weights(tmp_path / "run" / "last"), uninterrupted["modern"]["last"]
    assert not torch.equal(ours["score.8.weight"], theirs["score.8.weight"])


@pytest.mark.parametrize("stop", [interrupt, terminate])
def test_interrupted_in_the_middle_of_validation(
    stop: Any, tmp_path: Path, uninterrupted: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Trainer.validate

    def interrupted(trainer: Trainer, batches: Iterable[Batch]) -> tuple[float, SemanticScores]:
        stop()
        return validate(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", RECIPES["modern"])
    state = RunFolder(tmp_path / "run").load_state()
    assert state["progress"]["position"] == 6
    train(tmp_path / "run", RECIPES["modern"], resume=True)
    assert same(outcome(tmp_path / "run"), uninterrupted["modern"])


def test_killed_once_the_last_epoch_was_told(tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]) -> None:
    """Who watches sees an epoch before the state says that it is over, so that a resumed run leaves nothing out."""
    told: list[int] = []
    recipe = RECIPES["modern"]
    with pytest.raises(KilledError):
        train(tmp_path / "run", recipe, callbacks=[Stop(kill, epoch=2)])
    train(tmp_path / "run", recipe, resume=True, callbacks=[Stop(lambda: told.append(2), epoch=2)])
    assert told == [2]
    assert same(outcome(tmp_path / "run"), uninterrupted["modern"])


def test_interrupted_while_an_epoch_is_written(tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", RECIPES["modern"], callbacks=[Stop(interrupt, epoch=1)])
    assert RunFolder(tmp_path / "run").load_state()["progress"]["epoch"] == 1
    train(tmp_path / "run", RECIPES["modern"], resume=True)
    assert same(outcome(tmp_path / "run"), uninterrupted["modern"])


def test_signals_are_what_they_were_after_training(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", RECIPES["modern"], callbacks=[Stop(interrupt, step=1)])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()
        pytest.fail("the second interrupt was held")

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", RECIPES["modern"], callbacks=[Stop(twice, step=1)])
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_finished_run_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    train(tmp_path / "run", RECIPES["modern"])
    before = outcome(tmp_path / "run")
    progress = train(tmp_path / "run", RECIPES["modern"], resume=True)
    assert progress.epoch == 2
    assert same(outcome(tmp_path / "run"), before)


def test_the_average_is_what_is_kept(uninterrupted: dict[str, dict[str, Any]]) -> None:
    kept, state = uninterrupted["modern"]["last"], uninterrupted["modern"]["state"]
    for name, value in kept.items():
        assert torch.equal(value, state["average"][f"module.{name}"]), name
    assert not torch.equal(kept["score.8.weight"], state["net"]["score.8.weight"])
    assert uninterrupted["heavy"]["state"]["average"] is None
    assert same(uninterrupted["heavy"]["last"], dict(uninterrupted["heavy"]["state"]["net"]))


def test_records(uninterrupted: dict[str, dict[str, Any]]) -> None:
    first, second = uninterrupted["modern"]["metrics"]
    assert (first["epoch"], first["step"], second["epoch"], second["step"]) == (1, 2, 2, 4)
    assert set(first) == {
        *("epoch", "step", "train_loss", "val_loss", "pixel_accuracy", "mean_accuracy", "mean_iu"),
        *("frequency_weighted_iu", "learning_rate"),
    }
    assert all(math.isfinite(value) for value in first.values())
    assert first["train_loss"] == pytest.approx(math.log(8), rel=0.3)  # zero scores are the log of 8 classes
    assert second["learning_rate"] < first["learning_rate"] <= RECIPES["modern"].learning_rate


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let validation find these mean IUs, epoch by epoch."""
    validate = Trainer.validate

    def instead(trainer: Trainer, batches: Iterable[Batch]) -> tuple[float, SemanticScores]:
        loss, found = validate(trainer, batches)
        return loss, replace(found, mean_iu=scores[trainer.progress.epoch])

    monkeypatch.setattr(Trainer, "validate", instead)


def test_best_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.3, 0.5, 0.4])
    recipe = small(RECIPES["modern"], 18)
    progress = train(tmp_path / "run", recipe)
    assert (progress.best, progress.best_epoch, progress.epoch) == (0.5, 2, 3)
    (_, best), (_, last) = load_model(tmp_path / "run"), load_model(tmp_path / "run" / "last")
    assert (best.training["epoch"], last.training["epoch"]) == (2, 3)
    assert best.scores["validation"]["mean_iu"] == 0.5
    assert not same(weights(tmp_path / "run" / "best"), weights(tmp_path / "run" / "last"))


def test_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.2, 0.3, 0.3, 0.1, 0.9])
    recipe = small(RECIPES["modern"], 30, patience=2)
    assert train(tmp_path / "run", recipe).epoch == 4  # as good as before is no better
    assert train(tmp_path / "run", recipe, resume=True).epoch == 4


def test_divergence_leaves_the_last_good_model(tmp_path: Path) -> None:
    recipe = small(RECIPES["heavy"], 60, momentum=0.0)

    def diverge() -> None:
        recipe_net[0].score["8"].weight.data.fill_(float("inf"))

    recipe_net = [tiny_net()]
    with pytest.raises(DivergedError, match=r"at step 8 \(epoch 2\), in the batch of scene_0000"):
        fit(
            recipe_net[0],
            scenes(6),
            scenes(2, seed=1),
            recipe,
            RunFolder(tmp_path / "run"),
            max_side=0,
            callbacks=[Stop(diverge, step=7)],
        )
    net, config = load_model(tmp_path / "run")
    assert config.training["epoch"] == 1
    assert net(torch.zeros(1, 3, 64, 64)).isfinite().all()
    assert len(metrics(tmp_path / "run")) == 1
    json.loads((tmp_path / "run" / "metrics.jsonl").read_text())


def test_a_model_that_diverged_in_its_last_step_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="validation loss"):
        train(tmp_path / "run", small(RECIPES["heavy"], 6, learning_rate=1e38, accumulate=6))
    assert not (tmp_path / "run" / "best").exists()


def test_precisions_after_one_another(tmp_path: Path) -> None:
    recipe = small(RECIPES["modern"], 6)
    for dtype in (torch.bfloat16, torch.float32):
        train(tmp_path / str(dtype), recipe, dtype=dtype)
    one, other = (weights(tmp_path / str(dtype) / "last") for dtype in (torch.bfloat16, torch.float32))
    assert not same(one, other)


def test_counting() -> None:
    recipe = MODERN.model_copy(update={"images": 100, "max_epochs": 5, "batch_size": 4, "accumulate": 3})
    assert count_epochs(recipe, 30) == 4
    assert count_epochs(recipe, 10) == 5
    assert [count_steps(recipe, length) for length in (1, 12, 13, 24, 25)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("damage", ["cut", "empty", "pickle"])
def test_a_damaged_state(damage: str, tmp_path: Path, run: Path) -> None:
    state = (run / "state.pt").read_bytes()
    content = {"cut": state[: len(state) // 2], "empty": b"", "pickle": b"cos\nsystem\n(S'touch x'\ntR."}[damage]
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"state\.pt can't be read"):
        RunFolder(tmp_path).load_state()
