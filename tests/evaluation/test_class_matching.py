"""Classes of data and model are matched by name, and by position only if one side has no names."""

import pytest

from upscore.errors import UserError
from upscore.evaluation.class_matching import match_classes

NUMBERED = [f"class_{index}" for index in range(5)]


@pytest.mark.parametrize(
    ("data", "model", "indices", "has_note"),
    [
        (["road", "car"], ["road", "car"], (0, 1), False),
        (["car"], ["road", "car"], (1,), False),
        (["Car", "Road"], ["road", "car"], (1, 0), True),
        (["CAR", "road"], ["road", "car"], (1, 0), True),
        (["Car", "car"], ["car", "Car"], (1, 0), False),
        (["cAR", "car"], ["car", "Car"], (1, 0), True),
        (["Stra\u00dfe", "e\u0301"], ["\u00e9", "STRASSE"], (1, 0), True),
        (NUMBERED[:2], ["road", "car"], (0, 1), True),
        (NUMBERED[:1], ["road", "car"], (0,), True),
        (["road", "car"], NUMBERED[:2], (0, 1), True),
        (NUMBERED[:3], NUMBERED, (0, 1, 2), False),
        (["object"], ["nucleus"], (0,), True),
        (["nucleus"], ["object"], (0,), True),
    ],
)
def test_match_classes(data, model, indices, has_note):
    match = match_classes(data, model)
    assert match.indices == indices
    assert bool(match.note) == has_note


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (["sky", "tree"], ["road", "car"]),
        (["car", "tree"], ["road", "car"]),
        (NUMBERED[:3], ["road", "car"]),
        (["road", "car"], NUMBERED[:3]),
        (["object"], ["road", "car"]),
        (["class_1", "class_0"], ["road", "car"]),
        (["class_0", "tree"], ["road", "car"]),
        (["background", "foreground"], ["background", "nucleus"]),
        (["Car", "cAR"], ["car", "road"]),
        (["CAR"], ["car", "Car"]),
    ],
)
def test_unmatched_classes_raise_an_error_with_both_lists(data, model):
    with pytest.raises(UserError) as error:
        match_classes(data, model)
    assert all(name in str(error.value) for name in data)
    assert model[0] in str(error.value)


def test_class_names_in_errors_are_escaped_and_shortened():
    with pytest.raises(UserError) as error:
        match_classes(["\x1b[31mred", "x" * 2000], ["road"])
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 600
