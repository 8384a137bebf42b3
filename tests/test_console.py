from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.table import Table

from tests.cli.command import sentence, upscore
from upscore.console import Console, Progress

HOSTILE = "[red]a[/green] :smile: \x1b[31mb"
PRINTED = "[red]a[/green] :smile: \\x1b[31mb"


def test_markup_and_emoji_are_printed_literally_and_escapes_are_escaped() -> None:
    file = io.StringIO()
    console = Console(file=file, width=200)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    console.print(HOSTILE)
    assert file.getvalue().count(PRINTED) == 4
    assert "\x1b" not in file.getvalue()


def test_descriptions_of_progress_bars_are_printed_literally() -> None:
    file = io.StringIO()
    with Progress(console=Console(file=file, width=200, force_terminal=False)) as progress:
        progress.add_task(HOSTILE, total=1)
    assert PRINTED in file.getvalue()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("heatmap", "{data}/images/scene_0000.png", "--output"), "out.png"),
        (("import", "weights.pth", "--from", "torchvision", "--output"), "model"),
        (("evaluate", "none", "{data}", "--json"), "scores.json"),
        (("evaluate", "none", "{data}", "--plots"), "plots"),
        (("data", "check", "{data}", "--json"), "report.json"),
        (("analyze", "ceiling", "{data}", "--output"), "ceiling"),
        (("analyze", "cues", "{data}", "--output"), "cues"),
        (("analyze", "superpixels", "{data}", "--output"), "segments"),
        (("bench", "none", "--json"), "bench.json"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_first(
    arguments: tuple[str, ...],
    option: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Outputs are checked before models: the model of these commands does not exist."""
    (tmp_path / "file").touch()
    output = tmp_path / "file" / option
    assert upscore(monkeypatch, *(part.format(data=photos) for part in arguments), str(output)) == 2
    assert "can't be written" in sentence(capsys)
