"""Speed and memory of upscore compared with other libraries, as ratios.

    python benchmarks/speed.py --list
    python benchmarks/speed.py                  # all rows; 20 minutes on 2 cores
    python benchmarks/speed.py masks --repeats 9

Calls of upscore and of the peer alternate in one process, so that the ratio of their medians is little affected by
other load. Results are added to those in the output folder. With the default --output, docs/results/speed.md and its
plot are written as well.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING

from peers.measure import REPEATS, THREADS, Row
from peers.rows import ROWS, select_rows

if TYPE_CHECKING:
    from peers.results import Result

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, PICTURE = ROOT / "docs" / "results" / "speed.md", ROOT / "docs" / "images" / "speed.png"


def main(arguments: Sequence[str] | None = None) -> None:
    from upscore.errors import UserError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to measure; all by default")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="rounds after a warm-up")
    parser.add_argument("--threads", type=int, default=THREADS, help="threads of both sides")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of results.json, speed.md and speed.png")
    parser.add_argument("--list", action="store_true", help="list the rows, and stop")
    args = parser.parse_args(arguments)
    if args.list:
        list_rows()
        return
    for option in ("repeats", "threads"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} {getattr(args, option)} is invalid: give 1 or more")
    try:
        measure(select_rows(args.rows), args.repeats, args.threads, args.output)
    except UserError as error:
        parser.error(str(error))


def measure(rows: Sequence[Row], repeats: int, threads: int, folder: Path) -> None:
    """Measure rows, print the results, and write them after each row; rows without their peer are skipped."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)  # libraries read it when they are loaded
    from peers.results import read_results, write_results
    from peers.run import run
    from upscore.errors import UserError
    from upscore.progress import progress_bar

    results, measured, missing = read_results(folder / "results.json"), [], []
    for row in rows:
        try:
            with progress_bar(row.name) as advance:
                result = run(row, repeats, threads=threads, progress=advance)
        except UserError as error:
            missing.append(f"{row.name}: {error}")
            continue
        measured.append(result)
        results = results.with_result(result)
        write_results(results, folder / "results.json")
    if not measured:
        raise UserError("; ".join(missing))
    for sentence in missing:
        print(f"left out: {sentence}", file=sys.stderr)
    page, picture = (PAGE, PICTURE) if folder == RESULTS else (folder / "speed.md", folder / "speed.png")
    write_pages(results.ordered([row.name for row in ROWS]), page, picture)
    print_results(measured)
    print(f"Written to {page}")


def write_pages(results: Sequence[Result], page: Path, picture: Path) -> None:
    """Write the page in Markdown and its plot."""
    from peers.page import markdown
    from peers.plot import plot_results
    from upscore.files import write_text

    plot_results(results, picture)
    write_text(page, markdown(results, Path(relpath(picture, page.parent)).as_posix()))


def list_rows() -> None:
    from peers.page import format_ratio

    for row in ROWS:
        targets = ", ".join(f"{format_ratio(ratio)} in {side}" for side, ratio in row.target.items())
        print(f"{row.name}\n    {row.work}\n    against {row.peer_name}; target {targets or 'none'}")


def print_results(results: Sequence[Result]) -> None:
    from rich import box
    from rich.table import Table

    from peers.page import MEMORY_HEADER, SHORT_HEADER, memory_cells, remarks, short_cells
    from upscore.console import Console

    console = Console()
    for header, lines in ((SHORT_HEADER, short_cells), (MEMORY_HEADER, memory_cells)):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column in header:
            table.add_column(column, justify="left" if column in ("name", "ours", "reached") else "right", no_wrap=True)
        for result in results:
            for line in lines(result):
                table.add_row(*line, style={"yes": "green", "no": "yellow"}.get(line[-1]))
        if table.row_count:
            console.print(table)
    for line in remarks(results):
        console.print(line, style="dim")


if __name__ == "__main__":
    main()
