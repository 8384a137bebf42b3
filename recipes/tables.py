"""What the recipes of FCN's tables share: the command line, and the page that it writes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from table_pages import SCORES, Results, choice, count, differences, plot_rows, scores_table, verdict
from table_runs import CAMVID, DIFFERENT, HELD_OUT, IMAGES, SCENES, SIDE, Runs, Table, make_runs, read_runs

from upscore.files import write_text

PRIMARY = next(iter(SCORES))
PLACES = {SCENES: "Generated scenes", CAMVID: "CamVid"}
ABOUT = {
    SCENES: f"{DIFFERENT} scenes of 160 x 160 pixels to learn from, {HELD_OUT} others to score; 8 classes.",
    CAMVID: f"Photos reduced to {SIDE} x {SIDE * 3 // 4} pixels; the video 0006R0 (101 frames) is scored, the "
    "other two (367 frames) are learned from; 11 classes.",
}


More = Callable[[str, Path | None, Results, Path, Path], str]
"""(data set, its folder, results, folder for pictures, the page's path) -> what else the page says of the data set."""


def main(table: Table, doc: str | None, arguments: Sequence[str] | None = None, more: More = lambda *_: "") -> None:
    """The command line of a table's recipe."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, help="CamVid's folder: its runs are made too, and stand in the page")
    parser.add_argument("--only", choices=[SCENES, CAMVID], help="make the runs of one data set alone")
    parser.add_argument("--output", type=Path, default=Path("runs/tables"))
    parser.add_argument("--docs", type=Path, help="where the page goes, its plots going to ../images from there")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=IMAGES, help="seen in each run")
    asked = parser.parse_args(arguments)
    if asked.seeds < 1 or asked.images < 1:
        parser.error("--seeds and --images must be 1 or more")
    if asked.only == CAMVID and asked.camvid is None:
        parser.error("--only camvid needs --camvid FOLDER")
    sources = {SCENES: None} | ({CAMVID: asked.camvid} if asked.camvid else {})
    for data, source in sources.items():
        if asked.only in (None, data):
            make_runs(table, data, source, asked.output, seeds=asked.seeds, images=asked.images)
    runs = read_runs(asked.output)
    page = (asked.docs or asked.output) / f"{table.name}.md"
    images = asked.docs.parent / "images" if asked.docs else asked.output
    command = f"python recipes/{table.name}.py --camvid CAMVID"
    command += f" --seeds {asked.seeds}" * (asked.seeds != 3) + f" --images {asked.images}" * (asked.images != IMAGES)
    parts = [f"# {table.title}\n\n    {command}\n\n{table.about}\n"]
    for data in sources:
        done = {row: of_row(runs, data, row, asked.seeds) for row in table.rows}
        done = {row: results for row, results in done.items() if len(results) == asked.seeds}
        if not done:
            continue
        picture = images / f"{table.name}_{data}.png"
        plot_rows(done, titles(table), picture, title=f"{PLACES[data]}: {table.plot}", score=PRIMARY, label="mean IoU")
        extra = more(data, source, done, images, page)
        parts.append(section(table, data, done, os.path.relpath(picture, page.parent), extra))
    text = "\n".join(parts)
    write_text(page, text)
    print(text)


def section(table: Table, data: str, results: Results, picture: str, extra: str) -> str:
    """What a table says of one data set; `extra` is what its recipe alone has to say."""
    seeds = len(next(iter(results.values())))
    names = titles(table)
    verdicts = [
        verdict(differences(results, lower, higher, PRIMARY), names[lower], names[higher])
        for lower, higher in table.orders
        if lower in results and higher in results
    ]
    paper = {row: table.rows[row].paper for row in results}
    parts = [
        f"## {PLACES[data]}\n\n{ABOUT[data]} {count(seeds, 'seed').capitalize()}.\n",
        f"![Mean IoU of each row, a dot for each seed]({picture})\n",
        scores_table(results, names, paper=paper, whose=table.paper),
        "".join(f"- {sentence}\n" for sentence in verdicts),
        table.remarks.get(data, "") + "\n" * (data in table.remarks),
        extra,
        choice(results, names, PRIMARY) + "\n",
    ]
    return "\n".join(part for part in parts if part)


def titles(table: Table) -> dict[str, str]:
    """What each row is called."""
    return {name: row.title for name, row in table.rows.items()}


def of_row(runs: Runs, data: str, row: str, seeds: int) -> list[dict[str, Any]]:
    """A row's results, seed by seed, as far as there are any."""
    return [runs[name] for seed in range(seeds) if (name := f"{data}/{row}-{seed}") in runs]
