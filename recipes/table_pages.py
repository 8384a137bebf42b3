"""Parts of pages about runs: score tables, differences by seed, comparison with the paper, recommendation, plots."""

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
"""Row -> results of the seeds 0, 1, ..."""

SCORES = {
    "mean_iu": "mean IoU",
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "frequency_weighted_iu": "f.w. IoU",
}
"""Scores of FCN; the first one is the primary score."""

NEGLIGIBLE = 0.5
"""Mean difference in points that is considered negligible."""


def scores_table(
    results: Results,
    titles: Mapping[str, str],
    scores: Mapping[str, str] = SCORES,
    *,
    paper: Mapping[str, str],
    whose: str,
) -> str:
    """Return a table of mean scores, with range and seeds of the first one, difference to the first row, and paper."""
    first = next(iter(scores))
    head = ["", *scores.values(), f"{scores[first]}, each seed", "vs first row", "s per run"]
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
    """Return the differences of a score between two rows for each common seed, in points."""
    return [100 * (ours[score] - theirs[score]) for ours, theirs in zip(results[row], results[other], strict=False)]


def compare_with_paper(points: Sequence[float], lower: str, higher: str) -> str:
    """Return whether differences (lower - higher) agree with the paper's order, `lower` below `higher`."""
    agreeing = sum(difference < 0 for difference in points)
    if agreeing == len(points):
        result = f"confirmed in {count(len(points), 'seed')}"
    elif mean(points) < 0:
        result = f"confirmed on average and in {agreeing} of {count(len(points), 'seed')}"
    else:
        result = "not confirmed"
    return f"{lower} below {higher}, as in the paper: {result} ({mean(points):+.1f} points)."


def recommend(results: Results, titles: Mapping[str, str], score: str) -> str:
    """Recommend the best row, or the fastest of those that are not significantly worse."""
    best = max(results, key=lambda row: mean(run[score] for run in results[row]))
    equal = [row for row in results if row == best or _is_equal(differences(results, row, best, score))]
    fastest = min(equal, key=lambda row: median(run["seconds"] for run in results[row]))
    reached = f"{titles[fastest]} ({mean(run[score] for run in results[fastest]):.1%})"
    others = _join([f"*{titles[row]}*" for row in equal if row != fastest])
    if len(equal) == 1:
        return f"Recommended: {reached}, the best in all seeds."
    return (
        f"Recommended: {reached}, the fastest to train among the best rows; the difference from {others} is not "
        "significant."
    )


def _is_equal(points: Sequence[float]) -> bool:
    return max(points) >= 0 or mean(points) > -NEGLIGIBLE


def _join(names: Sequence[str]) -> str:
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def plot_seeds(axes: Axes, results: Results, titles: Mapping[str, str], score: str, label: str) -> None:
    """Plot a dot for each seed and a bar for the mean of each row, with a line at the mean of the first row."""
    for row, runs in enumerate(results.values()):
        each = [run[score] for run in runs]
        axes.plot([mean(each)] * 2, [row - 0.32, row + 0.32], color=ORANGE, linewidth=2.2)
        for seed, value in enumerate(each):
            position = row + 0.5 * ((seed + 0.5) / len(each) - 0.5)  # offset by seed, so that no dot is hidden
            axes.plot(value, position, "o", color=BLUE, markersize=5)
            axes.annotate(
                str(seed), (value, position), (5, 0), textcoords="offset points", va="center", size=7, color=FOREGROUND
            )
    first = next(iter(results.values()))
    axes.axvline(mean(run[score] for run in first), color=MUTED, linewidth=0.9, linestyle="--")
    name_ticks(axes, "y", [titles[row] for row in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(f"{label}; numbers are seeds", color=MUTED)


def plot_rows(results: Results, titles: Mapping[str, str], path: Path, *, title: str, score: str, label: str) -> None:
    """Write a plot of the rows."""
    figure = new_figure(7.2, 1.6 + 0.45 * len(results))
    axes = figure.add_subplot()
    seeds = len(next(iter(results.values())))
    style(axes, title, f"bar: mean of {count(seeds, 'seed')}", ORANGE)
    plot_seeds(axes, results, titles, score, label)
    save(figure, path)


def count(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
