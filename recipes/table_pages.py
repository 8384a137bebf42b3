"""A table of runs as a page: scores with their spread, differences seed by seed, the paper's order, what to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from upscore.text import markdown_table
from upscore.viz.plots import BLUE, FOREGROUND, MUTED, ORANGE, name_ticks, new_figure, save, style

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""row -> what was measured with seeds 0, 1, ..."""

SCORES = {
    "mean_iu": "mean IoU",
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "frequency_weighted_iu": "f.w. IU",
}
"""Those of FCN; the first is the one that decides."""

AS_GOOD = 0.5
"""Points; a mean difference below it says nothing."""


def scores_table(
    results: Results,
    titles: Mapping[str, str],
    scores: Mapping[str, str] = SCORES,
    *,
    paper: Mapping[str, str],
    whose: str,
) -> str:
    """Means over the seeds, of the first score with its spread, the difference to the first row, and the paper's."""
    first = next(iter(scores))
    head = ["", *scores.values(), f"{scores[first]}, each seed", "to the first row", "s a run"]
    lines = []
    for row, runs in results.items():
        means = [f"{mean(run[name] or 0 for run in runs):.1%}" for name in scores]
        each = [run[first] for run in runs]
        means[0] += f" ({min(each):.1%} to {max(each):.1%})" * (len(each) > 1)
        change = [*differences(results, row, next(iter(results)), first)]
        lines.append(
            [
                titles[row],
                *means,
                ", ".join(f"{value:.1%}" for value in each),
                "" if row == next(iter(results)) else f"{mean(change):+.1f}",
                f"{median(run['seconds'] for run in runs):.0f}",
            ]
        )
        if any(paper.values()):
            lines[-1].append(paper[row])
    header = [*head, whose] if any(paper.values()) else head
    return markdown_table(header, lines, escape=False) + "\n"


def differences(results: Results, row: str, other: str, score: str) -> list[float]:
    """A row's score less another's of the same seed, in points; over the seeds that both have."""
    return [100 * (ours[score] - theirs[score]) for ours, theirs in zip(results[row], results[other], strict=False)]


def verdict(points: Sequence[float], lower: str, higher: str) -> str:
    """Whether the paper's order, `lower` below `higher`, shows in these differences (lower less higher)."""
    agreeing = sum(difference < 0 for difference in points)
    if agreeing == len(points):
        seen = f"shows in all {len(points)} seeds" if len(points) > 1 else "shows, in one seed"
    elif mean(points) < 0:
        seen = f"shows on average, and in {agreeing} of {count(len(points), 'seed')}"
    else:
        seen = "does not show"
    return f"{lower} below {higher}: the paper's order {seen} ({mean(points):+.1f} points)."


def choice(results: Results, titles: Mapping[str, str], score: str) -> str:
    """What to take: the best row, or the quickest of those that are as good for all that the seeds tell."""
    best = max(results, key=lambda row: mean(run[score] for run in results[row]))
    equal = [row for row in results if row == best or _as_good(differences(results, row, best, score))]
    quickest = min(equal, key=lambda row: median(run["seconds"] for run in results[row]))
    reached = f"{titles[quickest]} ({mean(run[score] for run in results[quickest]):.1%})"
    others = _listed([titles[row] for row in equal if row != quickest])
    if len(equal) == 1:
        return f"To choose: {reached}; it is clearly the best."
    return f"To choose: {reached}, the quickest of what is as good; the seeds do not tell it from {others}."


def _as_good(points: Sequence[float]) -> bool:
    return max(points) >= 0 or mean(points) > -AS_GOOD


def _listed(names: Sequence[str]) -> str:
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def dots(axes: Axes, results: Results, titles: Mapping[str, str], score: str, label: str) -> None:
    """A dot for each seed and a bar for their mean, row by row, the first on top with a line through all."""
    for row, runs in enumerate(results.values()):
        each = [run[score] for run in runs]
        axes.plot([mean(each)] * 2, [row - 0.32, row + 0.32], color=ORANGE, linewidth=2.2)
        for seed, value in enumerate(each):
            place = row + 0.5 * ((seed + 0.5) / len(each) - 0.5)  # seeds under one another, so that none is hidden
            axes.plot(value, place, "o", color=BLUE, markersize=5)
            axes.annotate(
                str(seed), (value, place), (5, 0), textcoords="offset points", va="center", size=7, color=FOREGROUND
            )
    first = next(iter(results.values()))
    axes.axvline(mean(run[score] for run in first), color=MUTED, linewidth=0.9, linestyle="--")
    name_ticks(axes, "y", [titles[row] for row in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(f"{label}; numbers are seeds", color=MUTED)


def plot_rows(results: Results, titles: Mapping[str, str], path: Path, *, title: str, score: str, label: str) -> None:
    """The rows' dots as a picture."""
    figure = new_figure(7.2, 1.6 + 0.45 * len(results))
    axes = figure.add_subplot()
    seeds = len(next(iter(results.values())))
    style(axes, title, f"bar: mean of {count(seeds, 'seed')}", ORANGE)
    dots(axes, results, titles, score, label)
    save(figure, path)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
