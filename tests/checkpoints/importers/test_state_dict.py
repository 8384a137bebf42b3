from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from upscore.checkpoints.importers.state_dict import read_checkpoint, read_state_dict
from upscore.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

STATE = {"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.bias": torch.ones(3)}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_all_file_formats_and_wrappers_are_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "zip.pth")
    torch.save(STATE, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "net.safetensors")
    for wrapper in ("model_state_dict", "state_dict", "model"):
        torch.save({"epoch": 3, wrapper: STATE}, tmp_path / f"{wrapper}.pth")
    torch.save({f"module.{name}": value for name, value in STATE.items()}, tmp_path / "parallel.pth")
    files = list(tmp_path.iterdir())
    assert len(files) == 7
    for file in files:
        assert same(read_state_dict(file)), file.name


def test_files_are_not_changed_by_writing_to_tensors(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(STATE, path)
    before = path.read_bytes()
    read_state_dict(path)["layer.weight"].zero_()
    assert path.read_bytes() == before
    assert same(read_state_dict(path))


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_no_code_in_a_file_is_run(new: bool, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save(STATE | {"x": Malicious(touched)}, tmp_path / "evil.pth", _use_new_zipfile_serialization=new)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Malicious(touched)))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match=r"evil\.pth: .*(touch|getattr|Path)"):
        read_state_dict(tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pkl"):
        read_state_dict(tmp_path / "evil.pkl")
    with pytest.raises(UserError, match=r"module\.pth: .*torch\.nn\.modules\.linear\.Linear.*state_dict"):
        read_state_dict(tmp_path / "module.pth")
    assert not touched.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert touched.exists(), "the file must run code with weights_only=False"


def test_damaged_and_other_files_are_named(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    torch.save(STATE, tmp_path / "whole.pth", _use_new_zipfile_serialization=False)
    legacy = (tmp_path / "whole.pth").read_bytes()
    save_file(STATE, tmp_path / "whole.safetensors")
    safe = (tmp_path / "whole.safetensors").read_bytes()
    damaged = {
        "half.pth": whole[: len(whole) // 2],
        "short.pth": whole[:-5],
        "legacy_short.pth": legacy[:-20],
        "legacy_half.pth": legacy[:60],
        "half.safetensors": safe[: len(safe) // 2],
        "header.safetensors": safe[:6],
        "huge_header.safetensors": b"\xff" * 7 + b"\x00{}",
        "empty.pth": b"",
        "empty.safetensors": b"",
        "page.pth": b"<!DOCTYPE html><html>quota exceeded</html>",
        "text.pth": b"hello world, this is text\n" * 10,
        "pickle.pth": pickle.dumps({"a": 1}),
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: "):
            read_state_dict(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "hi")
    with pytest.raises(UserError, match=r"photos\.zip: "):
        read_state_dict(tmp_path / "photos.zip")


def test_missing_files_and_files_without_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth: "):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=f"{tmp_path}: "):
        read_checkpoint(tmp_path)
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(UserError, match=r"tensor\.pth: .*Tensor"):
        read_checkpoint(tmp_path / "tensor.pth")
    torch.save({"epoch": 1, "loss": 0.5}, tmp_path / "log.pth")
    with pytest.raises(UserError, match=r"log\.pth: .*epoch, loss"):
        read_state_dict(tmp_path / "log.pth")
    torch.save({}, tmp_path / "nothing.pth")
    with pytest.raises(UserError, match=r"nothing\.pth: "):
        read_state_dict(tmp_path / "nothing.pth")
