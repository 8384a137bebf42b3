"""`upscore bench`: how many times as fast as its peers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from upscore.bench.measure import REPEATS, THREADS, Row

if TYPE_CHECKING:
    from upscore.bench.results import Result
    from upscore.console import Console


def bench(
    *names: str,
    repeats: int = REPEATS,
    threads: int = THREADS,
    output: Path = Path("bench"),
    list_: Annotated[bool, Parameter("--list", negative="")] = False,
) -> None:
    """Measure speed and memory against other libraries, as ratios.

    ```
    upscore bench --list
    upscore bench masks upsampling-512x512
    upscore bench --repeats 9 --output docs/speed/
    ```

    Ours and the peer's calls take turns in one process, so that the ratio
    of their medians holds on a busy machine too. All of it takes minutes;
    results join those that are in the output folder already.

    Parameters
    ----------
    names
        What to measure, as --list has it; all by default.
    repeats
        Rounds after a first one that does not count. Fewer than 5 are a
        glance, and the page says so.
    threads
        Of both sides.
    output
        The folder to write results.json, speed.md and speed.png to.
    list_
        Name what can be measured, and stop.
    """
    from upscore.bench.rows import ROWS, choose
    from upscore.console import Console
    from upscore.errors import UserError
    from upscore.files import require_writable

    if list_:
        _print_rows(ROWS)
        return
    for option, value in (("--repeats", repeats), ("--threads", threads)):
        if value < 1:
            raise UserError(f"{option} {value}: it must be 1 at least")
    require_writable(output, "choose another --output")
    stderr = Console(stderr=True)
    try:
        measured = _measure(choose(names), repeats, threads, output, stderr)
    except OSError as error:
        raise UserError(f"{error.filename or output}: can't be written ({error.strerror})") from error
    _print(measured, output)


def _measure(rows: Sequence[Row], repeats: int, threads: int, folder: Path, stderr: Console) -> list[Result]:
    """What can't be measured here is told; results are written after each row, so that none is lost."""
    from rich.progress import TaskID

    from upscore.bench.results import read_results, write_results
    from upscore.bench.rows import ROWS
    from upscore.bench.run import run
    from upscore.console import Progress
    from upscore.errors import UserError

    _bound_libraries(threads)
    results, measured, missing = read_results(folder / "results.json"), [], []
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        for row in rows:
            task = progress.add_task(row.name, total=None)

            def advance(done: int, total: int, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=total)

            try:
                result = run(row, repeats, threads=threads, progress=advance)
            except UserError as error:
                missing.append(f"{row.name}: {error}")
                continue
            finally:
                progress.remove_task(task)
            measured.append(result)
            results = results.joined(result)
            write_results(results, folder / "results.json")
    if not measured:
        raise UserError("; ".join(missing))
    for sentence in missing:
        stderr.print(f"left out: {sentence}")
    write_pages(results.ordered([row.name for row in ROWS]), folder / "speed.md", folder / "speed.png")
    return measured


def write_pages(rows: Sequence[Result], page: Path, picture: Path) -> None:
    """The Markdown page and the picture it shows."""
    from os.path import relpath

    from upscore.bench.page import markdown
    from upscore.bench.plot import plot_results
    from upscore.files import write_text

    plot_results(rows, picture)
    write_text(page, markdown(rows, Path(relpath(picture, page.parent)).as_posix()))


def _bound_libraries(threads: int) -> None:
    """Libraries that count the cores when they are loaded; nothing has loaded them yet."""
    import os

    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _print_rows(rows: Sequence[Row]) -> None:
    from upscore.bench.page import times
    from upscore.console import Console

    console = Console()
    for row in rows:
        targets = ", ".join(f"{times(ratio)} in {side}" for side, ratio in row.target.items())
        console.print(row.name, style="bold")
        console.print(f"    {row.work}\n    against {row.peer_name}; target {targets or 'none'}")


def _print(rows: Sequence[Result], folder: Path) -> None:
    from rich import box
    from rich.table import Table

    from upscore.bench.page import MEMORY_HEADER, SHORT_HEADER, memory_cells, remarks, short_cells
    from upscore.console import Console

    console = Console()
    for header, lines in ((SHORT_HEADER, short_cells), (MEMORY_HEADER, memory_cells)):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column in header:
            table.add_column(column, justify="left" if column in ("name", "ours", "reached") else "right", no_wrap=True)
        for row in rows:
            for line in lines(row):
                table.add_row(*line, style={"yes": "green", "no": "yellow"}.get(line[-1]))
        if table.row_count:
            console.print(table)
    for line in remarks(rows):
        console.print(line, style="dim")
    console.print(f"Written to {folder / 'speed.md'}")
