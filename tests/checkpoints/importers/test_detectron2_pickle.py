from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from upscore.checkpoints.importers import detectron2_pickle
from upscore.checkpoints.importers.detectron2 import read_detectron2
from upscore.checkpoints.importers.detectron2_pickle import read_pickle
from upscore.errors import UserError

ARRAYS = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "by columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "other bytes": np.arange(3, dtype=">f4"),
    "half": np.array([0.5, -2], np.float16),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float32),
}


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_become_tensors(protocol: int, tmp_path: Path) -> None:
    content = {"model": OrderedDict(ARRAYS), "__author__": "Detectron2 Model Zoo", "score": np.float64(0.5)}
    read = read_pickle(write(tmp_path / "net.pkl", content, protocol))
    assert read["__author__"] == "Detectron2 Model Zoo"
    assert read["score"] == 0.5
    assert read["model"].keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert torch.equal(read["model"][name], torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))), name
    assert read["model"]["half"].dtype == torch.float16


def test_strings_of_python_2_hold_bytes(tmp_path: Path) -> None:
    # as Python 2 writes np.array([1.5, -3], "f4"): its str is read as text
    raw = np.array([1.5, -3], "<f4").tobytes()
    stream = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + raw + b"tbs."
    )
    (tmp_path / "old.pkl").write_bytes(stream)
    assert read_pickle(tmp_path / "old.pkl")["a"].tolist() == [1.5, -3]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": Evil()}, r"would run (posix|nt)\.system"),
        ({"model": {"a": torch.zeros(2)}}, r"would run torch\._utils\._rebuild_tensor_v2"),
        ({"model": {"a": np.array([{}], dtype=object)}}, "'O8'"),
        ({"model": {"a": np.zeros(2, dtype=[("x", "f4")])}}, "no plain number"),
        ({"model": {"a": np.array(["text"])}}, "no plain number"),
        ([1, 2], "holds a list"),
    ],
)
def test_other_things_are_refused(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_pickle(write(tmp_path / "net.pkl", content))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        pickle.dumps(ARRAYS)[:-40],
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00.",  # claims to hold 2**48 bytes
        b"\x80\x04K\x01r\xff\xff\xff\x7f.",  # an object with the number 2**31, and nothing before it
        pickle.dumps({"a": np.arange(4)}).replace(b"\x4b\x04\x85", b"\x4b\x05\x85"),  # 5 numbers, the bytes of 4
        b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x81.",
    ],
)
def test_damaged_files_are_named(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pkl").write_bytes(raw)
    with pytest.raises(UserError, match=r"net\.pkl"):
        read_pickle(tmp_path / "net.pkl")


def test_files_too_large_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_pickle(tmp_path / "nothing.pkl")
    monkeypatch.setattr(detectron2_pickle, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="GiB"):
        read_pickle(write(tmp_path / "net.pkl", ARRAYS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": ARRAYS, "matching_heuristics": True}, "a backbone to start training from"),
        ({"blobs": ARRAYS, "cfg": ""}, "first Detectron"),
        ({"model": {"res2_0_branch2a_w": ARRAYS["plain"]}}, "first Detectron"),
        ({"model": {}}, "holds no tensors"),
    ],
)
def test_other_files_of_detectron_are_named(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_detectron2(write(tmp_path / "net.pkl", content))
