import numpy as np
import pytest
from scipy.io import savemat

from upscore.data.io import matlab
from upscore.data.io.matlab import read_field, read_variable
from upscore.errors import UserError


@pytest.mark.parametrize("kind", [{"format": "4"}, {"do_compression": True}, {"do_compression": False}])
def test_versions_and_compression(tmp_path, kind):
    values = np.arange(12.0).reshape(3, 4)
    savemat(tmp_path / "a.mat", {"S": values, "other": [1]}, **kind)
    assert (read_variable(tmp_path / "a.mat", "S") == values).all()


def test_the_decompressed_size_is_limited(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"
    savemat(path, {"S": np.zeros((1000, 1000))}, do_compression=True)
    assert path.stat().st_size < 20_000
    read_variable(path, "S")
    monkeypatch.setattr(matlab, "MAX_BYTES", 2_000_000)
    with pytest.raises(UserError, match=r"a\.mat: .*2,000,000"):
        read_variable(path, "S")
    monkeypatch.setattr(matlab, "MAX_BYTES", 2_000)
    with pytest.raises(UserError, match=r"a\.mat: .*2,000"):
        read_variable(path, "S")


def test_missing_files_versions_and_fields_are_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.mat"):
        read_variable(tmp_path / "a.mat", "S")
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(UserError, match=r"a\.mat: .*7\.3.*'-v7'"):
        read_variable(tmp_path / "a.mat", "S")
    savemat(tmp_path / "b.mat", {"S": {"x": 1}})
    assert read_field(tmp_path / "b.mat", "S", "x").item() == 1
    with pytest.raises(UserError, match=r"b\.mat: S .*y"):
        read_field(tmp_path / "b.mat", "S", "y")
    savemat(tmp_path / "c.mat", {"S": np.zeros((2, 2))})
    with pytest.raises(UserError, match=r"c\.mat: S .*x"):
        read_field(tmp_path / "c.mat", "S", "x")


def test_damaged_and_truncated_files_are_named(tmp_path):
    savemat(tmp_path / "whole.mat", {"S": np.eye(9), "T": {"x": [1]}}, do_compression=True)
    content = (tmp_path / "whole.mat").read_bytes()
    rng = np.random.default_rng(0)
    for cut in range(0, len(content), 7):
        garbled = bytearray(content)
        garbled[cut] ^= int(rng.integers(1, 256))
        for broken in (content[:cut], bytes(garbled)):
            (tmp_path / "a.mat").write_bytes(broken)
            try:
                read_variable(tmp_path / "a.mat", "S")
            except UserError as error:
                assert "a.mat" in str(error)  # noqa: PT017 - some damage has no effect
