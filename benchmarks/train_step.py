"""Time or memory of training steps compared with peers, and the slowest operations.

    python benchmarks/train_step.py                      # both rows; 3 minutes on 2 cores
    python benchmarks/train_step.py train-fcn-vgg16 --profile

`--memory` measures the memory of the first step of each side in a separate process instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from peers import train_fcn, train_mask_rcnn
from peers.measure import REPEATS, THREADS, Row, Sides, compare, fix_threads
from peers.memory import peak_memory
from upscore.console import Console
from upscore.inference.machine import busy, describe

ROWS = {row.name: row for row in (train_fcn.row(), train_mask_rcnn.row())}
OPERATIONS = 25


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {', '.join(ROWS)}; all by default")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--profile", action="store_true", help="list the slowest operations instead")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f"row {unknown[0]!r} does not exist: choose from {', '.join(ROWS)}")

    console = Console()
    console.print(describe(args.threads), *filter(None, [busy()]), sep="\n")
    for name in args.rows or ROWS:
        row = ROWS[name]
        console.print(f"\n{row.work}; {row.peer_name}")
        if args.profile:
            profile_step(row, args.threads)
        elif args.memory:
            memory(row, args.threads, console)
        else:
            ours, peer = prepare(row, args.threads)
            found = compare(ours, peer, args.repeats, threads=args.threads)
            for side in ours:
                low, high = found.spread(side)
                console.print(
                    f"{side}: {found.seconds(side):.2f} s against {found.peer_seconds:.2f} s, {found.ratio(side):.2f}x "
                    f"({low:.2f} to {high:.2f}; target {row.target[side]:g})"
                )


def prepare(row: Row, threads: int) -> Sides:
    fix_threads(threads)
    return row.prepare()


def memory(row: Row, threads: int, console: Console) -> None:
    peer = peak_memory(row, None, threads=threads)
    for side in row.memory:
        ours = peak_memory(row, side, threads=threads)
        assert peer, "memory is measured on Linux"
        assert ours
        console.print(f"{side}: {ours / 2**20:.0f} MiB against {peer / 2**20:.0f} MiB, ratio {ours / peer:.2f}")


def profile_step(row: Row, threads: int) -> None:
    from torch.profiler import ProfilerActivity, profile

    ours, _ = prepare(row, threads)
    for call in ours.values():
        call()
        call()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            call()
        table = found.key_averages(group_by_input_shape=True)
        print(table.table(sort_by="self_cpu_time_total", row_limit=OPERATIONS, max_shapes_column_width=90))


if __name__ == "__main__":
    main()
