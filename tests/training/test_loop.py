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
    """Calls `act` after step `step` or epoch `epoch`."""

    def __init__(self, act: Any, *, step: int = 0, epoch: int = 0) -> None:
        self.act, self.at_step, self.at_epoch = act, step, epoch

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        if step == self.at_step:
            self.act()

    def on_epoch_end(self, records: list[dict[str, Any]], scores: SemanticScores | None, is_best: bool) -> None:
        if len(records) == self.at_epoch:
            self.act()


class KilledError(Exception):
    """Simulates a process that is killed before it can save."""


def kill() -> None:
    raise KilledError


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Outcome of each recipe."""
    folders = {name: tmp_path_factory.mktemp(name) / "run" for name in RECIPES}
    for name, folder in folders.items():
        train(folder, RECIPES[name])
    return {name: outcome(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_equals_an_uninterrupted_run(
    recipe: str, tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]
) -> None:
    """The run is interrupted by Ctrl-C in the first epoch, and killed in the second, which then starts again."""
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


def test_a_loader_worker_does_not_change_the_run(tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", RECIPES["modern"], workers=1, callbacks=[Stop(terminate, step=1)])
    train(tmp_path / "run", RECIPES["modern"], workers=1, resume=True)
    assert same(outcome(tmp_path / "run"), uninterrupted["modern"])


def test_the_seed_changes_the_weights(tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]) -> None:
    train(tmp_path / "run", RECIPES["modern"], seed=1)
    ours, theirs = weights(tmp_path / "run" / "last"), uninterrupted["modern"]["last"]
    assert not torch.equal(ours["score.8.weight"], theirs["score.8.weight"])


@pytest.mark.parametrize("stop", [interrupt, terminate])
def test_a_run_interrupted_during_validation_resumes(
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


def test_a_run_killed_in_a_callback_repeats_it(tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]) -> None:
    """Callbacks run before the state is saved, so that a resumed run does not omit any."""
    epochs: list[int] = []
    recipe = RECIPES["modern"]
    with pytest.raises(KilledError):
        train(tmp_path / "run", recipe, callbacks=[Stop(kill, epoch=2)])
    train(tmp_path / "run", recipe, resume=True, callbacks=[Stop(lambda: epochs.append(2), epoch=2)])
    assert epochs == [2]
    assert same(outcome(tmp_path / "run"), uninterrupted["modern"])


def test_a_run_interrupted_in_a_callback_resumes(tmp_path: Path, uninterrupted: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", RECIPES["modern"], callbacks=[Stop(interrupt, epoch=1)])
    assert RunFolder(tmp_path / "run").load_state()["progress"]["epoch"] == 1
    train(tmp_path / "run", RECIPES["modern"], resume=True)
    assert same(outcome(tmp_path / "run"), uninterrupted["modern"])


def test_signal_handlers_are_restored(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", RECIPES["modern"], callbacks=[Stop(interrupt, step=1)])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_interrupt_raises_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()
        pytest.fail("the second interrupt was held")

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", RECIPES["modern"], callbacks=[Stop(twice, step=1)])
    assert not (tmp_path / "run" / "state.pt").exists()


def test_resuming_a_finished_run_does_nothing(tmp_path: Path) -> None:
    train(tmp_path / "run", RECIPES["modern"])
    before = outcome(tmp_path / "run")
    progress = train(tmp_path / "run", RECIPES["modern"], resume=True)
    assert progress.epoch == 2
    assert same(outcome(tmp_path / "run"), before)


def test_averaged_weights_are_saved(uninterrupted: dict[str, dict[str, Any]]) -> None:
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
    """Replace the mean IoU of each epoch's validation."""
    validate = Trainer.validate

    def instead(trainer: Trainer, batches: Iterable[Batch]) -> tuple[float, SemanticScores]:
        loss, found = validate(trainer, batches)
        return loss, replace(found, mean_iu=scores[trainer.progress.epoch])

    monkeypatch.setattr(Trainer, "validate", instead)


def test_best_and_last_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.3, 0.5, 0.4])
    recipe = small(RECIPES["modern"], 18)
    progress = train(tmp_path / "run", recipe)
    assert (progress.best, progress.best_epoch, progress.epoch) == (0.5, 2, 3)
    (_, best), (_, last) = load_model(tmp_path / "run"), load_model(tmp_path / "run" / "last")
    assert (best.training["epoch"], last.training["epoch"]) == (2, 3)
    assert best.scores["validation"]["mean_iu"] == 0.5
    assert not same(weights(tmp_path / "run" / "best"), weights(tmp_path / "run" / "last"))


def test_patience_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.2, 0.3, 0.3, 0.1, 0.9])
    recipe = small(RECIPES["modern"], 30, patience=2)
    assert train(tmp_path / "run", recipe).epoch == 4  # an equal score is no improvement
    assert train(tmp_path / "run", recipe, resume=True).epoch == 4


def test_the_best_model_is_kept_if_the_loss_diverges(tmp_path: Path) -> None:
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


def test_a_model_that_diverged_in_its_last_step_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="validation loss"):
        train(tmp_path / "run", small(RECIPES["heavy"], 6, learning_rate=1e38, accumulate=6))
    assert not (tmp_path / "run" / "best").exists()


def test_runs_of_different_precision_in_one_process(tmp_path: Path) -> None:
    recipe = small(RECIPES["modern"], 6)
    for dtype in (torch.bfloat16, torch.float32):
        train(tmp_path / str(dtype), recipe, dtype=dtype)
    one, other = (weights(tmp_path / str(dtype) / "last") for dtype in (torch.bfloat16, torch.float32))
    assert not same(one, other)


def test_count_epochs_and_steps() -> None:
    recipe = MODERN.model_copy(update={"images": 100, "max_epochs": 5, "batch_size": 4, "accumulate": 3})
    assert count_epochs(recipe, 30) == 4
    assert count_epochs(recipe, 10) == 5
    assert [count_steps(recipe, length) for length in (1, 12, 13, 24, 25)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("damage", ["cut", "empty", "pickle"])
def test_a_damaged_state_is_a_user_error(damage: str, tmp_path: Path, run: Path) -> None:
    state = (run / "state.pt").read_bytes()
    content = {"cut": state[: len(state) // 2], "empty": b"", "pickle": b"cos\nsystem\n(S'touch x'\ntR."}[damage]
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"state\.pt can't be read"):
        RunFolder(tmp_path).load_state()
