"""Command line and page of the recipes of the FCN tables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from table_pages import SCORES, Results, compare_with_paper, count, differences, plot_rows, recommend, scores_table
from table_runs import CAMVID, DIFFERENT, HELD_OUT, IMAGES, SCENES, SIDE, Runs, Table, make_runs, read_runs

from upscore.files import write_text

PRIMARY = next(iter(SCORES))
DATA_TITLES = {SCENES: "Generated scenes", CAMVID: "CamVid"}
ABOUT = {
    SCENES: f"{DIFFERENT} training and {HELD_OUT} validation scenes of 160 x 160 pixels; 8 classes.",
    CAMVID: f"Images reduced to {SIDE} x {SIDE * 3 // 4} pixels; the video 0006R0 (101 frames) is used for validation, "
    "the other two (367 frames) for training; 11 classes.",
}

More = Callable[[str, Path | None, Results, Path, Path], str]
"""(Data set, its folder, results, folder of plots, path of the page) -> additional text about the data set."""


def main(table: Table, doc: str | None, arguments: Sequence[str] | None = None, more: More = lambda *_: "") -> None:
    """Run the command line of a recipe; `more` returns additional text for each data set."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, help="folder of CamVid, to include its runs")
    parser.add_argument("--only", choices=[SCENES, CAMVID], help="run one data set only")
    parser.add_argument("--output", type=Path, default=Path("runs/tables"))
    parser.add_argument("--docs", type=Path, help="folder of the page; plots are written to ../images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=IMAGES, help="training images of each run")
    args = parser.parse_args(arguments)
    if args.seeds < 1 or args.images < 1:
        parser.error("--seeds and --images must be 1 or more")
    if args.only == CAMVID and args.camvid is None:
        parser.error("--only camvid needs --camvid FOLDER")
    sources = {SCENES: None} | ({CAMVID: args.camvid} if args.camvid else {})
    for data, source in sources.items():
        if args.only in (None, data):
            make_runs(table, data, source, args.output, seeds=args.seeds, images=args.images)
    runs = read_runs(args.output)
    page = (args.docs or args.output) / f"{table.name}.md"
    images = args.docs.parent / "images" if args.docs else args.output
    command = f"python recipes/{table.name}.py --camvid CAMVID"
    command += f" --seeds {args.seeds}" * (args.seeds != 3) + f" --images {args.images}" * (args.images != IMAGES)
    parts = [f"# {table.title}\n\n    {command}\n\n{table.about}\n"]
    for data, source in sources.items():
        done = {row: row_results(runs, data, row, args.seeds) for row in table.rows}
        done = {row: results for row, results in done.items() if len(results) == args.seeds}
        if not done:
            continue
        picture = images / f"{table.name}_{data}.png"
        plot_rows(
            done, titles(table), picture, title=f"{DATA_TITLES[data]}: {table.plot}", score=PRIMARY, label="mean IoU"
        )
        extra = more(data, source, done, images, page)
        parts.append(section(table, data, done, os.path.relpath(picture, page.parent), extra))
    text = "\n".join(parts)
    write_text(page, text)
    print(text)


def section(table: Table, data: str, results: Results, picture: str, extra: str) -> str:
    """Return the section of a data set; `extra` is additional text of the recipe."""
    seeds = len(next(iter(results.values())))
    names = titles(table)
    verdicts = [
        compare_with_paper(differences(results, lower, higher, PRIMARY), names[lower], names[higher])
        for lower, higher in table.orders
        if lower in results and higher in results
    ]
    paper = {row: table.rows[row].paper for row in results}
    parts = [
        f"## {DATA_TITLES[data]}\n\n{ABOUT[data]} {count(seeds, 'seed').capitalize()}.\n",
        f"![Mean IoU of each row, a dot for each seed]({picture})\n",
        scores_table(results, names, paper=paper, whose=table.paper),
        "".join(f"- {sentence}\n" for sentence in verdicts),
        table.remarks.get(data, "") + "\n" * (data in table.remarks),
        extra,
        recommend(results, names, PRIMARY) + "\n",
    ]
    return "\n".join(part for part in parts if part)


def titles(table: Table) -> dict[str, str]:
    """Return the titles of the rows by name."""
    return {name: row.title for name, row in table.rows.items()}


def row_results(runs: Runs, data: str, row: str, seeds: int) -> list[dict[str, Any]]:
    """Return the results of a row for each finished seed."""
    return [runs[name] for seed in range(seeds) if (name := f"{data}/{row}-{seed}") in runs]
