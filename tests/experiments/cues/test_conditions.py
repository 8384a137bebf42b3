"""Masked samples and scores of the cue experiment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import scenes
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.experiments.cues.conditions import (
    CONDITIONS,
    SHAPE,
    TRAINED_CONDITIONS,
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
"""Labels in which class 2 is the foreground."""


def is_foreground(*classes: int) -> torch.Tensor:
    table = torch.zeros(256, dtype=torch.bool)
    table[list(classes)] = True
    return table


def make_sample(seed: int = 0) -> Sample:
    image = torch.randint(20, 250, (3, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Sample(name="a", image=image, class_map=LABELS, depth=torch.zeros(1, 2, 3), geometric_map=LABELS)


def hide(sample: Sample, *, foreground: bool, background: bool) -> torch.Tensor:
    kept = {"keep_foreground": foreground, "keep_background": background}
    return masked(sample, is_foreground(2), **kept, fill=FILL).image


def expected(sample: Sample, shown: list[list[int]], fill: tuple[int, int, int] = FILL) -> torch.Tensor:
    image = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, 2, 3)
    for y, x in torch.tensor(shown).nonzero().tolist():
        image[:, y, x] = sample.image[:, y, x]
    return image


def test_background_and_void_are_hidden_around_the_foreground() -> None:
    sample = make_sample()
    masked_sample = hide(sample, foreground=True, background=False)
    assert torch.equal(masked_sample, expected(sample, [[0, 0, 1], [0, 1, 0]]))


def test_foreground_and_void_are_hidden_in_the_background() -> None:
    sample = make_sample()
    masked_sample = hide(sample, foreground=False, background=True)
    assert torch.equal(masked_sample, expected(sample, [[1, 1, 0], [0, 0, 1]]))


def test_the_shape_has_two_colours_and_does_not_depend_on_the_image() -> None:
    one, other = (hide(make_sample(seed), foreground=False, background=False) for seed in (0, 1))
    assert torch.equal(one, other)
    colors = [[FILL, FILL, SHAPE], [FILL, SHAPE, FILL]]
    assert torch.equal(one, torch.tensor(colors, dtype=torch.uint8).permute(2, 0, 1))


def test_a_completely_visible_image_is_unchanged() -> None:
    sample = make_sample()
    assert torch.equal(hide(sample, foreground=True, background=True), sample.image)


def test_other_labels_are_dropped_and_the_class_map_is_kept() -> None:
    sample = scenes(1)[0]
    assert sample.class_map is not None
    before = sample.image.clone()
    masked_sample = masked(
        sample, is_foreground(1, 2, 3, 4, 5, 6, 7), keep_foreground=False, keep_background=True, fill=FILL
    )
    assert masked_sample.objects is masked_sample.depth is masked_sample.geometric_map is None
    assert masked_sample.class_map is not None
    assert torch.equal(masked_sample.class_map, sample.class_map)
    assert torch.equal(sample.image, before)  # the original sample is not modified
    assert sample.depth is not None


def test_a_data_set_is_masked_by_the_indices_of_its_classes() -> None:
    plain = scenes(3)
    masked_sample = MaskedDataset(plain, [1, 5], keep_foreground=True, keep_background=False, fill=FILL)
    assert len(masked_sample) == 3
    assert masked_sample.classes == plain.classes
    for index in range(3):
        sample, image = plain[index], masked_sample[index].image
        shown = np.isin(sample.class_map, [1, 5])
        assert torch.equal(image[:, shown], sample.image[:, shown])
        assert bool((image[:, ~shown] == torch.tensor(FILL, dtype=torch.uint8)[:, None]).all())


def test_an_image_without_class_map_is_named() -> None:
    sample = Sample(name="street", image=torch.zeros(3, 2, 2, dtype=torch.uint8))
    with pytest.raises(UserError, match="street"):
        masked(sample, is_foreground(1), keep_foreground=True, keep_background=False, fill=FILL)


@pytest.mark.parametrize("preprocessing", [LITE0, CAFFE])
def test_the_fill_colour_is_preprocessed_to_zero(preprocessing) -> None:  # type: ignore[no-untyped-def]
    fill = torch.tensor(mean_color(preprocessing)).view(1, 3, 1, 1)
    half_a_step = 0.5 / min(preprocessing.std)
    assert preprocessing(fill).abs().max() <= half_a_step


CLASSES = ["sky", "car", "road", "dog"]
COUNTS = torch.tensor(
    [
        [50, 5, 0, 0],  # sky, of which 5 are predicted as car
        [10, 30, 0, 10],  # car, of which 10 are predicted as sky and 10 as dog
        [0, 0, 40, 8],  # road
        [0, 6, 4, 20],  # dog
    ]
)


def test_background_rows_and_columns_are_excluded() -> None:
    scores = cue_scores(COUNTS, CLASSES, ["car", "dog"])
    # the restricted matrix is [[30, 10], [6, 20]]
    assert scores.per_class == {"car": pytest.approx(30 / 46), "dog": pytest.approx(20 / 36)}
    assert scores.foreground_iu == pytest.approx((30 / 46 + 20 / 36) / 2)
    assert scores.found == pytest.approx(66 / 80)
    assert scores.mean_iu == pytest.approx((50 / 65 + 30 / 61 + 40 / 52 + 20 / 48) / 4)


def test_false_positives_on_the_background_lower_mean_iu_only() -> None:
    louder = COUNTS.clone()
    louder[0, 1] += 1000
    ours, theirs = (cue_scores(counts, CLASSES, ["car", "dog"]) for counts in (COUNTS, louder))
    assert ours.foreground_iu == theirs.foreground_iu
    assert theirs.mean_iu < ours.mean_iu


def test_a_class_that_is_never_predicted_has_iou_0() -> None:
    """Otherwise a network that predicts sky for all cars would score as if there were no cars."""
    counts = COUNTS.clone()
    counts[1] = torch.tensor([50, 0, 0, 0])
    counts[:, 1] = 0
    scores = cue_scores(counts, CLASSES, ["car", "dog"])
    assert scores.per_class == {"car": 0, "dog": 1}
    assert scores.foreground_iu == 0.5
    assert scores.found == pytest.approx(20 / 74)


def test_a_class_without_ground_truth_is_excluded_from_the_mean() -> None:
    counts = COUNTS.clone()
    counts[3] = 0
    scores = cue_scores(counts, CLASSES, ["car", "dog"])
    assert scores.per_class == {"car": pytest.approx(30 / 40), "dog": None}
    assert scores.foreground_iu == pytest.approx(30 / 40)


def test_the_baseline_is_the_score_of_one_class_for_all_pixels() -> None:
    pixels = {"car": 60, "dog": 30, "cow": 10, "bus": 0}
    guess = best_guess(pixels)
    counts = torch.zeros(4, 4, dtype=torch.int64)
    counts[:, 0] = torch.tensor(list(pixels.values()))
    assert guess.name == "car"
    assert guess.foreground_iu == pytest.approx(cue_scores(counts, list(pixels), list(pixels)).foreground_iu)
    assert guess.foreground_iu == pytest.approx(0.6 / 3)


def test_conditions_match_the_paper() -> None:
    """FCN table 8: name, train FG/BG, test FG/BG, mean IoU."""
    k, m = True, False
    assert {row.title: (tuple(row.trained), tuple(row.tested), row.paper) for row in CONDITIONS.values()} == {
        "Reference": ((k, k), (k, k), 0.848),
        "Reference-FG": ((k, k), (k, m), 0.810),
        "Reference-BG": ((k, k), (m, k), 0.198),
        "FG-only": ((k, m), (k, m), 0.761),
        "BG-only": ((m, k), (m, k), 0.378),
        "Shape": ((m, m), (m, m), 0.291),
    }
    assert TRAINED_CONDITIONS == ["reference", "fg_only", "bg_only", "shape"]
    assert {name: network_of(name) for name in CONDITIONS} == {
        **{name: name for name in TRAINED_CONDITIONS},
        "reference_fg": "reference",
        "reference_bg": "reference",
    }
