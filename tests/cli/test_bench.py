"""`upscore bench`, with rows that take no time."""

import json
import os
import subprocess
import sys
from time import sleep

import pytest

from upscore.bench import rows
from upscore.bench.measure import Row
from upscore.cli.bench import bench
from upscore.errors import UserError

FILES = ["results.json", "speed.md", "speed.png"]


def prepare():
    return {"fast": lambda: sleep(0.0005), "even": lambda: sleep(0.005)}, lambda: sleep(0.005)


def prepare_without_peer():
    raise UserError("thatlib, the peer, is not installed: pip install thatlib")


@pytest.fixture(autouse=True)
def _tiny_rows(monkeypatch):
    """A row that reaches its target, one that can't, and one without its peer."""
    import torch

    before = torch.get_num_threads()
    tiny = [
        Row(name=name, work=f"nothing, {name}", peer_name="sleep", target={"fast": target}, prepare=prepare)
        for name, target in (("one", 1e-6), ("two", 1e6))
    ]
    lost = Row(name="lost", work="w", peer_name="thatlib", target={"fast": 2}, prepare=prepare_without_peer)
    monkeypatch.setattr(rows, "ROWS", (*tiny, lost))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, os.environ.get(variable, "2"))
    yield
    torch.set_num_threads(before)


def test_results_page_and_picture(tmp_path, capsys):
    bench("one", "two", repeats=2, threads=1, output=tmp_path / "new/out")
    assert sorted(path.name for path in (tmp_path / "new/out").iterdir()) == FILES
    found = json.loads((tmp_path / "new/out/results.json").read_text())["rows"]
    assert [side["name"] for side in found["one"]["sides"]] == ["fast", "even"]
    assert found["one"]["repeats"] == 2
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines() if " fast " in line] == ["yes", "no"]
    page = (tmp_path / "new/out/speed.md").read_text()
    assert "nothing, one" in page
    assert "speed.png" in page


def test_what_is_measured_joins_what_was(tmp_path):
    bench("two", repeats=1, threads=1, output=tmp_path)
    before = json.loads((tmp_path / "results.json").read_text())["rows"]["two"]
    bench("one", repeats=1, threads=1, output=tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert found["two"] == before
    page = (tmp_path / "speed.md").read_text()
    assert page.index("nothing, one") < page.index("nothing, two")  # in the order of the table


def test_a_missing_peer_leaves_out_its_row_alone(tmp_path, capsys):
    bench("lost", "one", repeats=1, threads=1, output=tmp_path)
    assert "left out: lost: thatlib, the peer, is not installed: pip install thatlib" in " ".join(
        capsys.readouterr().err.split()
    )
    assert list(json.loads((tmp_path / "results.json").read_text())["rows"]) == ["one"]
    with pytest.raises(UserError, match="lost: thatlib, the peer, is not installed"):
        bench("lost", repeats=1, threads=1, output=tmp_path)


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="no benchmark is called 'three'; choose among one, two, lost"):
        bench("three", output=tmp_path)
    with pytest.raises(UserError, match="--repeats 0: it must be 1 at least"):
        bench("one", repeats=0, output=tmp_path)
    with pytest.raises(UserError, match="--threads 0"):
        bench("one", threads=0, output=tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        bench("one", repeats=1, threads=1, output=tmp_path / "file")


def test_list(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench(list_=True)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if not line.startswith(" ")] == ["one", "two", "lost"]
    assert "against thatlib; target 2.0x in fast" in out
    assert not list(tmp_path.iterdir())


def test_the_list_of_all_rows_needs_nothing_heavy():
    code = (
        "import sys; from upscore.cli.bench import bench; import upscore.bench.rows; "
        "sys.exit(str(sorted({'torch', 'numpy', 'matplotlib', 'openvino', 'pydantic'} & set(sys.modules)) or ''))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not found.stderr.strip()
