"""What is measured does the same work on both sides."""

import inspect
import pickle

import numpy as np
import pytest

from peers import masks, upsampling
from peers.measure import compare
from peers.rows import ROWS, choose
from upscore.errors import UserError


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_whole(row):
    assert row.work
    assert row.peer_name
    assert row.target
    assert all(ratio > 0 for ratio in row.target.values())
    assert all(0 < share <= 1 for share in row.memory.values())
    inspect.signature(row.prepare).bind()
    assert pickle.loads(pickle.dumps(row)).name == row.name  # it goes to a process of its own


def test_names_are_unique_and_chosen_in_the_table_s_order():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert [row.name for row in choose(names[::-1])] == names
    assert [row.name for row in choose([])] == names
    with pytest.raises(UserError, match=f"no benchmark is called 'speed'; choose among .*{names[-1]}"):
        choose(["speed"])


@pytest.mark.slow
def test_upsampling_gives_the_peer_s_classes():
    ours, peer = upsampling.prepare(96, 160)
    compare(ours, peer, repeats=1, threads=1)
    found, expected = ours["float32"](), peer()
    assert found.shape == expected.shape == (96, 160)
    assert (found == expected).float().mean() > 0.999  # rounding decides where two classes are level


@pytest.mark.slow
def test_masks_give_the_peer_s_pixels(monkeypatch):
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
