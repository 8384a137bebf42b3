"""Training steps against peers', with the operations of ours that take the longest.

    python benchmarks/train_step.py                      # both rows; 3 minutes on 2 cores
    python benchmarks/train_step.py train-fcn-vgg16 --preset

With `--memory` also how much each side's first step takes, in a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from peers import train_fcn, train_mask_rcnn
from peers.measure import REPEATS, THREADS, Row, Sides, compare, fix_threads
from peers.memory import peak_memory
from upscore.inference.machine import busy, describe

ROWS = {row.name: row for row in (train_fcn.row(), train_mask_rcnn.row())}
OPERATIONS = 25


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {', '.join(ROWS)}; all of them by default")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--preset", action="store_true", help="list operations instead")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.rows if name not in ROWS]:
        parser.error(f"no row is called {unknown[0]!r}; choose among {', '.join(ROWS)}")

    console = Console(highlight=False, markup=False)
    console.print(describe(asked.threads), *filter(None, [busy()]), sep="\n")
    for name in asked.rows or ROWS:
        row = ROWS[name]
        console.print(f"\n{row.work}; {row.peer_name}")
        if asked.preset:
            preset(row, asked.threads)
        elif asked.memory:
            memory(row, asked.threads, console)
        else:
            ours, peer = prepared(row, asked.threads)
            found = compare(ours, peer, asked.repeats, threads=asked.threads)
            for side in ours:
                low, high = found.spread(side)
                console.print(
                    f"{side}: {found.seconds(side):.2f} s against {found.peer_seconds:.2f} s, {found.ratio(side):.2f}x "
                    f"({low:.2f} to {high:.2f}; aim {row.target[side]:g})"
                )


def prepared(row: Row, threads: int) -> Sides:
    fix_threads(threads)
    return row.prepare()


def memory(row: Row, threads: int, console: Console) -> None:
    theirs = peak_memory(row, None, threads=threads)
    for side in row.memory:
        ours = peak_memory(row, side, threads=threads)
        assert theirs, "memory is measured on Linux"
        assert ours
        console.print(f"{side}: {ours / 2**20:.0f} MiB against {theirs / 2**20:.0f} MiB, {ours / theirs:.2f} of it")


def preset(row: Row, threads: int) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import preset as profiled

    ours, _ = prepared(row, threads)
    for call in ours.values():
        call()
        call()
        with profiled(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            call()
        table = found.key_averages(group_by_input_shape=True)
        print(table.table(sort_by="self_cpu_time_total", row_limit=OPERATIONS, max_shapes_column_width=90))


if __name__ == "__main__":
    main()
