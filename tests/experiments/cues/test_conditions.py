"""The scores of what a network looks at, on matrices made by hand."""

from __future__ import annotations

import pytest
import torch

from upscore.experiments.cues.conditions import ROWS, TRAINED, best_guess, cue_scores, network_of

CLASSES = ["sky", "car", "road", "dog"]
COUNTS = torch.tensor(
    [
        [50, 5, 0, 0],  # sky, of which 5 are called car
        [10, 30, 0, 10],  # car, of which 10 are called sky and 10 dog
        [0, 0, 40, 8],  # road
        [0, 6, 4, 20],  # dog
    ]
)


def test_the_background_has_neither_row_nor_column() -> None:
    scores = cue_scores(COUNTS, CLASSES, ["car", "dog"])
    # what is left is [[30, 10], [6, 20]]
    assert scores.per_class == {"car": pytest.approx(30 / 46), "dog": pytest.approx(20 / 36)}
    assert scores.foreground_iu == pytest.approx((30 / 46 + 20 / 36) / 2)
    assert scores.found == pytest.approx(66 / 80)
    assert scores.mean_iu == pytest.approx((50 / 65 + 30 / 61 + 40 / 52 + 20 / 48) / 4)


def test_false_alarms_on_the_background_count_in_the_whole_matrix_alone() -> None:
    louder = COUNTS.clone()
    louder[0, 1] += 1000
    ours, theirs = (cue_scores(counts, CLASSES, ["car", "dog"]) for counts in (COUNTS, louder))
    assert ours.foreground_iu == theirs.foreground_iu
    assert theirs.mean_iu < ours.mean_iu


def test_a_class_that_is_never_found_counts_as_nothing() -> None:
    """Else a network that calls all cars sky would score as if there were none."""
    counts = COUNTS.clone()
    counts[1] = torch.tensor([50, 0, 0, 0])
    counts[:, 1] = 0
    scores = cue_scores(counts, CLASSES, ["car", "dog"])
    assert scores.per_class == {"car": 0, "dog": 1}
    assert scores.foreground_iu == 0.5
    assert scores.found == pytest.approx(20 / 74)


def test_a_class_that_is_not_in_the_truth_is_no_part_of_the_mean() -> None:
    counts = COUNTS.clone()
    counts[3] = 0
    scores = cue_scores(counts, CLASSES, ["car", "dog"])
    assert scores.per_class == {"car": pytest.approx(30 / 40), "dog": None}
    assert scores.foreground_iu == pytest.approx(30 / 40)


def test_the_best_guess_is_what_calling_everything_so_scores() -> None:
    pixels = {"car": 60, "dog": 30, "cow": 10, "bus": 0}
    guess = best_guess(pixels)
    counts = torch.zeros(4, 4, dtype=torch.int64)
    counts[:, 0] = torch.tensor(list(pixels.values()))
    assert guess.name == "car"
    assert guess.foreground_iu == pytest.approx(cue_scores(counts, list(pixels), list(pixels)).foreground_iu)
    assert guess.foreground_iu == pytest.approx(0.6 / 3)


def test_the_rows_are_the_papers() -> None:
    """FCN table 8: name, train FG/BG, test FG/BG, mean IoU."""
    k, m = True, False
    assert {row.title: (tuple(row.trained), tuple(row.tested), row.paper) for row in ROWS.values()} == {
        "Reference": ((k, k), (k, k), 0.848),
        "Reference-FG": ((k, k), (k, m), 0.810),
        "Reference-BG": ((k, k), (m, k), 0.198),
        "FG-only": ((k, m), (k, m), 0.761),
        "BG-only": ((m, k), (m, k), 0.378),
        "Shape": ((m, m), (m, m), 0.291),
    }
    assert TRAINED == ["reference", "fg_only", "bg_only", "shape"]
    assert {name: network_of(name) for name in ROWS} == {
        **{name: name for name in TRAINED},
        "reference_fg": "reference",
        "reference_bg": "reference",
    }
