"""Matches the classes of a data set with those of a model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from upscore.errors import UserError
from upscore.text import short_names

UNNAMED_OBJECTS = ["object"]
"""Classes of an instance segmentation data set without class names."""


class ClassMatchWarning(UserWarning):
    """Classes of the data and of the model were not matched by equal names."""


@dataclass(frozen=True, slots=True)
class ClassMatch:
    """The class of the model for each class of the data."""

    indices: tuple[int, ...]
    """Class index of the model by class index of the data."""
    note: str = ""
    """Message for the user; empty if all names are equal."""


def match_classes(data: Sequence[str], model: Sequence[str]) -> ClassMatch:
    """Match classes by name: equal names first, then names that differ by upper and lower case only.

    Classes are matched by position only if one side has no names, that is `class_0`, `class_1` and so on, or the single
    class `object`. Unnamed data may have fewer classes than the model, for example if the last class does not occur.

    Args:
        data: the class names of the data, in the order of its class indices.
        model: the class names of the model.

    Raises:
        UserError: the model does not have a class of the data, or several classes match it.
    """
    if list(data) == list(model):
        return ClassMatch(tuple(range(len(data))))
    matches = _match_names(data, model)
    named = tuple(index for index in matches if index is not None)
    if len(named) == len(data):
        return ClassMatch(named, _case_note(data, model, named))
    # the single class "object" does not match one of several classes by position
    unnamed_data = len(data) == len(model) or (len(data) < len(model) and list(data) != UNNAMED_OBJECTS)
    unnamed_data = unnamed_data and _is_unnamed(data)
    unnamed_model = _is_unnamed(model) and len(data) == len(model)
    if not named and (unnamed_data or unnamed_model):
        side = "the data names no classes" if unnamed_data else "the model names no classes"
        return ClassMatch(
            tuple(range(len(data))), f"{side}: they are matched by position with the model's ({short_names(model)})"
        )
    unknown = [name for name, index in zip(data, matches, strict=True) if index is None]
    raise UserError(
        f"the model has no class {short_names(unknown, 5)}. Classes of the data: {short_names(data)}. Classes of the "
        f"model: {short_names(model)}. Use the same names, in classes.txt or in the categories of the JSON file"
    )


def _match_names(data: Sequence[str], model: Sequence[str]) -> list[int | None]:
    """Return the model's class index for each class of the data by name; None without a match.

    Raises:
        UserError: a class matches several others that differ by case only.
    """
    exact = {name: index for index, name in enumerate(model)}
    matches = [exact.get(name) for name in data]
    folded: dict[str, list[int]] = {}
    for index, name in enumerate(model):
        if index not in matches:
            folded.setdefault(_folded(name), []).append(index)
    for position, name in enumerate(data):
        if matches[position] is not None or _folded(name) not in folded:
            continue
        candidates = folded[_folded(name)]
        rivals = [other for other in data if _folded(other) == _folded(name) and other not in exact]
        if len(candidates) > 1 or len(rivals) > 1:
            names = [*rivals, *(model[index] for index in candidates)]
            raise UserError(
                f"the classes {short_names(names)} differ by case only: use the same names in data and model"
            )
        matches[position] = candidates[0]
    return matches


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().casefold())


def _is_unnamed(names: Sequence[str]) -> bool:
    return list(names) == UNNAMED_OBJECTS or all(
        re.fullmatch(r"class_\d+", name) and name == f"class_{index}" for index, name in enumerate(names)
    )


def _case_note(data: Sequence[str], model: Sequence[str], indices: Sequence[int]) -> str:
    pairs = [(name, model[index]) for name, index in zip(data, indices, strict=True) if name != model[index]]
    if not pairs:
        return ""
    return f"classes are matched ignoring case: {short_names([f'{own} = {other}' for own, other in pairs])}"
