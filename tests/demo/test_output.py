"""The demo does not replace files that it did not write."""

import pytest

from upscore.demo.run import prepare_output
from upscore.errors import UserError

NETWORKS = ["fcn32s", "fcn8s"]


def test_a_second_demo_removes_the_page_and_keeps_other_files(tmp_path):
    prepare_output(tmp_path, NETWORKS)
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "fcn8s").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    prepare_output(tmp_path, NETWORKS)
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["report.html", "images", "fcn8s"])
def test_files_that_the_demo_did_not_write_are_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name):
        prepare_output(tmp_path, NETWORKS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_training_run_in_an_earlier_demo_is_refused(tmp_path):
    prepare_output(tmp_path, NETWORKS)
    (tmp_path / "fcn8s").mkdir()
    (tmp_path / "fcn8s/run.json").write_text("{}")
    with pytest.raises(UserError, match="fcn8s"):
        prepare_output(tmp_path, NETWORKS)


def test_a_file_as_output_is_refused(tmp_path):
    path = tmp_path / "out"
    path.write_text("")
    with pytest.raises(UserError, match="out"):
        prepare_output(path, NETWORKS)
