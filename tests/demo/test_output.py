"""What the demo did not write, it does not replace."""

import pytest

from upscore.demo.run import claim
from upscore.errors import UserError

NETWORKS = ["fcn32s", "fcn8s"]


def test_a_second_demo_begins_afresh_and_leaves_other_files(tmp_path):
    claim(tmp_path, NETWORKS)
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "fcn8s").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    claim(tmp_path, NETWORKS)
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["report.html", "images", "fcn8s"])
def test_a_folder_with_something_of_the_same_name_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"has {name}, not written by the demo"):
        claim(tmp_path, NETWORKS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_training_run_in_an_earlier_demo_is_refused(tmp_path):
    claim(tmp_path, NETWORKS)
    (tmp_path / "fcn8s").mkdir()
    (tmp_path / "fcn8s/run.json").write_text("{}")
    with pytest.raises(UserError, match="has fcn8s"):
        claim(tmp_path, NETWORKS)


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "out"
    path.write_text("")
    with pytest.raises(UserError, match="takes a folder"):
        claim(path, NETWORKS)
