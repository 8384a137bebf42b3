"""What of a photo is hidden, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import scenes
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.experiments.cues.conditions import (
    ROWS,
    SHAPE,
    TRAINED,
    MaskedDataset,
    best_guess,
    cue_scores,
    masked,
    mean_color,
    network_of,
)
from upscore.labels import VOID
from upscore.models.preprocessing import CAFFE, LITE0

FILL = (9, 8, 7)
LABELS = torch.tensor([[0, 1, 2], [VOID, 2, 0]], dtype=torch.uint8)
"""Class 2 is the foreground."""


def is_foreground(*classes: int) -> torch.Tensor:
    table = torch.zeros(256, dtype=torch.bool)
    table[list(classes)] = True
    return table


def sample(seed: int = 0) -> Sample:
    image = torch.randint(20, 250, (3, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Sample(name="a", image=image, class_map=LABELS, depth=torch.zeros(1, 2, 3), geometric_map=LABELS)


def hide(photo: Sample, *, foreground: bool, background: bool) -> torch.Tensor:
    kept = {"keep_foreground": foreground, "keep_background": background}
    return masked(photo, is_foreground(2), **kept, fill=FILL).image


def expected(photo: Sample, shown: list[list[int]], fill: tuple[int, int, int] = FILL) -> torch.Tensor:
    image = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, 2, 3)
    for y, x in torch.tensor(shown).nonzero().tolist():
        image[:, y, x] = photo.image[:, y, x]
    return image


def test_background_and_void_are_hidden_around_the_foreground() -> None:
    photo = sample()
    seen = hide(photo, foreground=True, background=False)
    assert torch.equal(seen, expected(photo, [[0, 0, 1], [0, 1, 0]]))


def test_foreground_and_void_are_hidden_in_the_background() -> None:
    photo = sample()
    seen = hide(photo, foreground=False, background=True)
    assert torch.equal(seen, expected(photo, [[1, 1, 0], [0, 0, 1]]))


def test_a_shape_has_two_colours_and_no_trace_of_the_photo() -> None:
    one, other = (hide(sample(seed), foreground=False, background=False) for seed in (0, 1))
    assert torch.equal(one, other)
    colors = [[FILL, FILL, SHAPE], [FILL, SHAPE, FILL]]
    assert torch.equal(one, torch.tensor(colors, dtype=torch.uint8).permute(2, 0, 1))


def test_a_whole_photo_is_left_as_it_is() -> None:
    photo = sample()
    assert torch.equal(hide(photo, foreground=True, background=True), photo.image)


def test_what_would_give_the_objects_away_is_dropped_and_the_labels_stay() -> None:
    photo = scenes(1)[0]
    assert photo.class_map is not None
    before = photo.image.clone()
    seen = masked(photo, is_foreground(1, 2, 3, 4, 5, 6, 7), keep_foreground=False, keep_background=True, fill=FILL)
    assert seen.objects is seen.depth is seen.geometric_map is None
    assert seen.class_map is not None
    assert torch.equal(seen.class_map, photo.class_map)
    assert torch.equal(photo.image, before)  # a data set in memory is not written to
    assert photo.depth is not None


def test_a_data_set_is_masked_by_the_indices_of_its_classes() -> None:
    plain = scenes(3)
    seen = MaskedDataset(plain, [1, 5], keep_foreground=True, keep_background=False, fill=FILL)
    assert len(seen) == 3
    assert seen.classes == plain.classes
    for index in range(3):
        photo, image = plain[index], seen[index].image
        shown = np.isin(photo.class_map, [1, 5])
        assert torch.equal(image[:, shown], photo.image[:, shown])
        assert bool((image[:, ~shown] == torch.tensor(FILL, dtype=torch.uint8)[:, None]).all())


def test_a_photo_without_labels_is_named() -> None:
    photo = Sample(name="street", image=torch.zeros(3, 2, 2, dtype=torch.uint8))
    with pytest.raises(UserError, match="street has no class map"):
        masked(photo, is_foreground(1), keep_foreground=True, keep_background=False, fill=FILL)


@pytest.mark.parametrize("preprocessing", [LITE0, CAFFE])
def test_the_fill_is_nothing_to_the_network(preprocessing) -> None:  # type: ignore[no-untyped-def]
    fill = torch.tensor(mean_color(preprocessing)).view(1, 3, 1, 1)
    half_a_step = 0.5 / min(preprocessing.std)
    assert preprocessing(fill).abs().max() <= half_a_step


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
