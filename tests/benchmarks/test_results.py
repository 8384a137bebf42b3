"""Results in JSON files, tables and plots."""

import pytest

from peers.page import format_ratio, format_seconds, format_share, markdown
from peers.plot import plot_results
from peers.results import Result, Results, SideResult, read_results, write_results
from upscore.errors import UserError


def side(name, ratio, target=None, **memory):
    return SideResult(
        name=name, seconds=1 / ratio, ratio=ratio, low=0.9 * ratio, high=1.2 * ratio, target=target, **memory
    )


def result(name, *sides, **changes):
    defaults = {
        "work": f"work of {name}",
        "peer_name": "a peer",
        "peer_seconds": 1.0,
        "repeats": 5,
        "environment": "a machine, 2 threads",
        "date": "2026-01-02T10:00+00:00",
    }
    return Result(name=name, sides=list(sides), **{**defaults, **changes})


def test_targets():
    assert side("fast", 5.0, 5.0).reached is True
    assert side("slow", 4.9, 5.0).reached is False
    assert side("other", 4.9).reached is None
    small, large = side("small", 2, memory=10, memory_share=0.1), side("large", 2, memory=11, memory_share=0.1)
    row = result("memory", small, large, side("other", 2), peer_memory=100)
    assert [row.memory_reached(side) for side in row.sides] == [True, False, None]


def test_results_are_written_read_and_replaced(tmp_path):
    path = tmp_path / "new" / "results.json"
    assert read_results(path) == Results()
    first, second = result("a", side("x", 3.0, 2.0)), result("b", side("x", 0.5), warning="busy")
    results = Results().with_result(first).with_result(second)
    write_results(results, path)
    assert read_results(path) == results
    again = result("a", side("x", 4.0, 2.0))
    assert read_results(path).with_result(again).ordered(["b", "a"]) == [second, again]


@pytest.mark.parametrize("text", ["", "[]", '{"rows": {"a": 1}}', '{"results": {}}'])
def test_invalid_files_raise_an_error(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json"):
        read_results(tmp_path / "results.json")


def test_page_has_all_measurements():
    mib = 1 << 20
    few = result("b", side("y", 0.5, 2.0, memory=3 * mib, memory_share=0.01), peer_memory=200 * mib, repeats=2)
    page = markdown([result("a", side("x", 3.0, 2.0), side("z", 1.5), warning="it was busy"), few], "a/speed.png")
    lines = page.splitlines()
    assert "| work of a | a peer | 1.00 s | x | 333 ms | 3.0x | 2.7x to 3.6x | 2.0x | yes |" in lines
    assert "|  |  |  | z | 667 ms | 1.50x | 1.35x to 1.80x |  |  |" in lines
    assert "| work of b | a peer | 1.00 s | y | 2.00 s | 0.50x | 0.45x to 0.60x | 2.0x | no |" in lines
    assert "| b | 200 MiB | y | 3.0 MiB | 1.5% | 1.0% | no |" in lines
    assert "![ratios, with their targets](a/speed.png)" in lines
    assert "- a: it was busy" in lines
    assert "- rounds: 2 to 5" in lines
    assert any(line.endswith("not reliable: b") for line in lines)
    assert "Working memory" not in markdown([result("a", side("x", 3.0))], "speed.png")


def test_numbers_have_two_or_three_significant_digits():
    assert [format_ratio(ratio) for ratio in (0.873, 1.49, 1.96, 8.45, 37.6, 140)] == [
        "0.87x", "1.49x", "2.0x", "8.4x", "38x", "140x",
    ]  # fmt: skip
    assert [format_seconds(seconds) for seconds in (1.84, 0.0537, 0.0031)] == ["1.84 s", "54 ms", "3.1 ms"]
    assert [format_share(part) for part in (0.66, 0.0999, 0.0014)] == ["66%", "10%", "0.1%"]


def test_height_of_the_plot_depends_on_the_number_of_rows(tmp_path):
    from PIL import Image

    rows = [result("a", side("x", 30.0, 16.0), side("y", 0.4, 0.8)), result("b", side("x", 2.0))]
    heights = []
    for count in (1, 2):
        plot_results(rows[:count], tmp_path / "speed.png")
        with Image.open(tmp_path / "speed.png") as plot:
            plot.load()
            heights.append(plot.height)
    assert heights[0] < heights[1]
