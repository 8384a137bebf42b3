"""All of `upscore bench`, as the documentation's page.

python benchmarks/speed.py            # docs/results/speed.md and its picture; 20 minutes on 2 cores
python benchmarks/speed.py masks      # one row again: it joins the others
"""

from __future__ import annotations

import sys
from pathlib import Path

from upscore.bench.results import read_results
from upscore.bench.rows import ROWS
from upscore.cli.bench import bench, write_pages

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

if __name__ == "__main__":
    bench(*sys.argv[1:], output=RESULTS)
    rows = read_results(RESULTS / "results.json").ordered([row.name for row in ROWS])
    write_pages(rows, ROOT / "docs" / "results" / "speed.md", ROOT / "docs" / "images" / "speed.png")
