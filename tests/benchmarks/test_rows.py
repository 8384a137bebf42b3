"""Both sides of a benchmark compute the same."""

import inspect
import pickle

import numpy as np
import pytest

from peers import masks, upsampling
from peers.measure import compare
from peers.rows import ROWS, select_rows
from upscore.errors import UserError


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_are_complete(row):
    assert row.work
    assert row.peer_name
    assert row.target
    assert all(ratio > 0 for ratio in row.target.values())
    assert all(0 < share <= 1 for share in row.memory.values())
    inspect.signature(row.prepare).bind()
    assert pickle.loads(pickle.dumps(row)).name == row.name  # rows are sent to another process


def test_names_are_unique_and_selected_in_the_order_of_the_table():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert [row.name for row in select_rows(names[::-1])] == names
    assert [row.name for row in select_rows([])] == names
    with pytest.raises(UserError, match=rf"'speed' does not exist: choose from .*{names[-1]}"):
        select_rows(["speed"])


@pytest.mark.slow
def test_upsampling_returns_the_classes_of_the_peer():
    ours, peer = upsampling.prepare(96, 160)
    compare(ours, peer, repeats=1, threads=1)
    found, expected = ours["float32"](), peer()
    assert found.shape == expected.shape == (96, 160)
    assert (found == expected).float().mean() > 0.999  # rounding decides between equal scores


@pytest.mark.slow
def test_masks_equal_those_of_the_peer(monkeypatch):
    for name, value in {"HEIGHT": 150, "WIDTH": 200, "OBJECTS": 7, "LARGEST": 100}.items():
        monkeypatch.setattr(masks, name, value)
    ours, peer = masks.prepare()
    compare(ours, peer, repeats=1, threads=1)
    expected = peer()[:, 0]
    assert expected.any(dim=(1, 2)).all()
    assert np.array_equal(ours["planes"](), expected)
    for (crop, top, left), plane in zip(ours["crops"](), expected.numpy(), strict=True):
        pixels = np.zeros_like(plane)
        pixels[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        assert (pixels == plane).all()
