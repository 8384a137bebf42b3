import json
import os
import subprocess
import sys

import pytest

from tests.data.coco_files import annotation, image, small, square, write
from tests.data.layouts import label, pairs
from upscore.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["upscore", "data", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


@pytest.fixture
def root(tmp_path):
    pairs(tmp_path / "data", ["a", "b"])
    (tmp_path / "data" / "classes.txt").write_text("[red]sky\nroad\n")
    return tmp_path / "data"


def test_data_without_issues(root, monkeypatch, capsys):
    assert run(monkeypatch, root) == 0
    out, err = capsys.readouterr()
    assert "[red]sky" in out  # names are not interpreted as markup
    assert "50.00%" in out
    assert "1 size: 6x4 (2)" in out
    assert out.endswith("No issues.\n")
    assert "Reading" not in err  # no progress bar without a terminal


def test_issues_are_listed(root, monkeypatch, capsys, tmp_path):
    for number in range(8):
        label(root / "labels" / f"{number}.png")
    (root / "images" / "a.jpg").write_bytes(b"garbage")
    target = tmp_path / "report.json"
    assert run(monkeypatch, root, "--json", target) == 1
    out = capsys.readouterr().out
    assert "8 labels without an image" in out
    assert "and 3 more" in out
    assert "a.jpg: is not " in out
    assert out.endswith("9 issues.\n")
    report = json.loads(target.read_text())
    assert len(report["issues"]) == 9
    assert report["classes"][0] == {"name": "[red]sky", "pixels": 24, "share": 0.5, "images": 2}


def test_statistics_of_objects(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, small(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "COCO: 2 images" in out
    assert "2 objects: 2 small, 0 medium, 0 large" in out
    write(tmp_path / "annotations.json", [image(3)], [annotation(8, 3, [square(1, 1, 2)], category_id=1)])
    assert run(monkeypatch, tmp_path, "--json", tmp_path / "report.json") == 1
    assert "annotation 8 has the category_id 1" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["issues"][0]["annotation"], report["issues"][0]["kind"]) == (8, "category")


def test_the_task_can_be_forced(root, monkeypatch, capsys):
    (root / "classes.txt").unlink()
    assert run(monkeypatch, root) == 0
    assert "class_1" in capsys.readouterr().out
    assert run(monkeypatch, root, "--task", "instances") == 0
    assert "2 objects: 2 small" in capsys.readouterr().out
    assert run(monkeypatch, root, "--task", "instances", "--sbd", root) == 2


def test_undecodable_names_are_escaped(root, monkeypatch, capsys, tmp_path):
    odd = os.fsencode(root / "labels") + b"/od\xffd\x1b[31m.png"
    label(root / "labels" / "odd.png").rename(os.fsdecode(odd))
    assert run(monkeypatch, root, "--json", tmp_path / "report.json") == 1
    out = capsys.readouterr().out
    assert "\\x1b[31m.png" in out
    assert "\x1b" not in out


def test_a_missing_folder(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, tmp_path / "missing") == 2
    assert "missing" in capsys.readouterr().err


def test_an_unwritable_report_is_refused_first(root, monkeypatch, capsys):
    assert run(monkeypatch, root, "--json", root / "classes.txt" / "report.json") == 2
    out, err = capsys.readouterr()
    assert out == ""  # refused before the data set is read
    assert "classes.txt" in err


def test_help_imports_nothing_heavy():
    script = (
        "import sys, upscore.cli.data\n"
        "print([name for name in ('torch', 'numpy', 'PIL', 'rich.progress') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
