"""`benchmarks/speed.py` with rows that take a few milliseconds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

import speed
from peers import rows
from peers.measure import Row
from upscore.errors import UserError

FILES = ["results.json", "speed.md", "speed.png"]


def prepare():
    return {"fast": lambda: sleep(0.0005), "even": lambda: sleep(0.005)}, lambda: sleep(0.005)


def prepare_without_peer():
    raise UserError("thatlib, the peer, is not installed: pip install thatlib")


@pytest.fixture(autouse=True)
def _tiny_rows(monkeypatch):
    """Use a row that reaches its target, one that cannot, and one without its peer."""
    import torch

    before = torch.get_num_threads()
    tiny = [
        Row(name=name, work=f"nothing, {name}", peer_name="sleep", target={"fast": target}, prepare=prepare)
        for name, target in (("one", 1e-6), ("two", 1e6))
    ]
    missing = Row(name="missing", work="w", peer_name="thatlib", target={"fast": 2}, prepare=prepare_without_peer)
    for module in (rows, speed):
        monkeypatch.setattr(module, "ROWS", (*tiny, missing))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, os.environ.get(variable, "2"))
    yield
    torch.set_num_threads(before)


def run(output, *arguments, repeats=1):
    speed.main([*arguments, "--repeats", str(repeats), "--threads", "1", "--output", str(output)])


def test_results_page_and_plot(tmp_path, capsys):
    run(tmp_path / "new/out", "one", "two", repeats=2)
    assert sorted(path.name for path in (tmp_path / "new/out").iterdir()) == FILES
    found = json.loads((tmp_path / "new/out/results.json").read_text())["rows"]
    assert [side["name"] for side in found["one"]["sides"]] == ["fast", "even"]
    assert found["one"]["repeats"] == 2
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines() if " fast " in line] == ["yes", "no"]
    page = (tmp_path / "new/out/speed.md").read_text()
    assert "nothing, one" in page
    assert "speed.png" in page


def test_new_results_are_added_to_the_old(tmp_path):
    run(tmp_path, "two")
    before = json.loads((tmp_path / "results.json").read_text())["rows"]["two"]
    run(tmp_path, "one")
    found = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert found["two"] == before
    page = (tmp_path / "speed.md").read_text()
    assert page.index("nothing, one") < page.index("nothing, two")  # the order of the table


def test_row_without_its_peer_is_skipped(tmp_path, capsys):
    run(tmp_path, "missing", "one")
    assert "missing: thatlib, the peer, is not installed" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "results.json").read_text())["rows"]) == ["one"]
    with pytest.raises(SystemExit):
        run(tmp_path, "missing")
    assert "missing: thatlib" in capsys.readouterr().err


def test_wrong_arguments(tmp_path, capsys):
    (tmp_path / "file").touch()
    for output, arguments, message in (
        ("out", ["three"], "'three'"),
        ("out", ["one", "--repeats", "0"], "--repeats 0"),
        ("out", ["one", "--threads", "0"], "--threads 0"),
        ("file", ["one"], str(tmp_path / "file")),
    ):
        with pytest.raises(SystemExit):
            speed.main(["--repeats", "1", *arguments, "--output", str(tmp_path / output)])
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_list(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    speed.main(["--list"])
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if not line.startswith(" ")] == ["one", "two", "missing"]
    assert "against thatlib; target 2.0x in fast" in out
    assert not list(tmp_path.iterdir())


def test_script_lists_all_rows():
    script = Path(speed.__file__)
    found = subprocess.run([sys.executable, script, "--list"], capture_output=True, text=True, check=True)
    assert "fcn-vgg16" in found.stdout.splitlines()
