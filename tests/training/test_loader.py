from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.tiny import RECIPES, same, scenes
from upscore.data.resizing import resize_longest
from upscore.data.samples import Sample
from upscore.data.transforms import Batch
from upscore.errors import UserError
from upscore.training.loader import (
    Resize,
    TrainingView,
    ValidationView,
    _report_unless_parent_ended,
    batches,
    default_workers,
    derive_seed,
    epoch_order,
)
from upscore.training.recipes import MODERN

AUGMENTED = MODERN.model_copy(update={"crop": 40, "flip": 0.5, "colour": 0.5})


def at_most(max_side: int) -> Resize:
    return partial(resize_longest, max_side=max_side)


def view(*, seed: int = 0, epoch: int = 0, start: int = 0, max_side: int = 0) -> TrainingView:
    return TrainingView(scenes(), AUGMENTED, resize=at_most(max_side), seed=seed, epoch=epoch, start=start)


def contents(feed: list[Batch]) -> list:
    return [[batch.images, batch.class_maps, batch.names] for batch in feed]


def test_each_epoch_shuffles_all_images() -> None:
    orders = [epoch_order(50, replacement=False, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert (orders[0] == epoch_order(50, replacement=False, seed=0, epoch=0)).all()


def test_order_with_replacement() -> None:
    order = epoch_order(500, replacement=True, seed=0, epoch=0)
    assert len(order) == 500
    assert set(order) <= set(range(500))
    assert 280 < len(set(order)) < 350  # 1 - 1 / e of them


def test_derived_seeds_differ() -> None:
    seeds = {derive_seed(*parts) for parts in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0)]}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(-1) != derive_seed(1)


def test_a_view_from_a_position_is_the_rest_of_the_epoch() -> None:
    whole, rest = view(), view(start=4)
    assert len(rest) == 2
    for position in range(2):
        assert torch.equal(whole[4 + position].image, rest[position].image)


def test_augmentation_depends_on_seed_and_epoch() -> None:
    one = view()[0].image
    assert torch.equal(one, view()[0].image)
    assert not torch.equal(one, view(seed=1)[0].image)
    assert not torch.equal(one, view(epoch=1)[0].image)


def test_crops_are_no_larger_than_the_image() -> None:
    small = TrainingView(scenes(2, side=32), AUGMENTED, resize=at_most(0), seed=0, epoch=0)
    assert small[0].image.shape == (3, 32, 32)
    assert view()[0].image.shape == (3, 40, 40)


def test_larger_images_are_reduced() -> None:
    assert ValidationView(scenes(), resize=at_most(48))[0].image.shape == (3, 48, 48)
    assert TrainingView(scenes(), RECIPES["heavy"], resize=at_most(48), seed=0, epoch=0)[0].image.shape == (3, 48, 48)


def test_workers_do_not_change_batches() -> None:
    alone, read_ahead = (contents(list(batches(view(), 4, workers))) for workers in (0, 1))
    assert [len(names) for _, _, names in alone] == [4, 2]
    assert same(alone, read_ahead)


class Damaged:
    classes = ["a"]  # noqa: RUF012

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        if index == 2:
            raise UserError("photo_2.jpg: is cut short; fetch it again.")
        return scenes()[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_unreadable_images_keep_their_message(workers: int, tmp_path: Path) -> None:
    read = []
    with pytest.raises(UserError) as error:
        read.extend(batches(ValidationView(Damaged(), resize=at_most(0)), 1, workers))
    assert str(error.value) == "photo_2.jpg: is cut short; fetch it again."


def test_workers_do_not_report_that_their_parent_ended(capfd: pytest.CaptureFixture[str]) -> None:
    for error in (ConnectionResetError(), BrokenPipeError(), EOFError()):
        _report_unless_parent_ended(type(error), error, None)
    assert capfd.readouterr().err == ""
    _report_unless_parent_ended(KeyError, KeyError("handle"), None)
    assert "KeyError: 'handle'" in capfd.readouterr().err


def test_default_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, workers in ((None, 1), (1, 1), (2, 1), (4, 2), (64, 4)):
        monkeypatch.setattr("os.cpu_count", lambda count=processors: count)
        assert default_workers() == workers
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # each of eight processes on one machine
    assert default_workers() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert default_workers() == 1
