"""Select the pairs of a split, and divide a data set into training and validation pairs."""

from __future__ import annotations

import random
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

from upscore.data.formats.folder import UNSPLIT, DatasetIndex, Pair
from upscore.errors import UserError


def select(listing: DatasetIndex, split: str | None, source: str | Path) -> list[Pair]:
    """Return the pairs of a split, sorted by name; without a split, all pairs with labels.

    Raises:
        UserError: the data set has no such split.
    """
    splits = listing.splits
    if split is None:
        pairs = _pool(splits)
        return [pair for pair in pairs if pair.label is not None]
    if split == "trainval" and {"train", "val"} <= splits.keys():
        return _pool({name: splits[name] for name in ("train", "val")})
    if split not in splits:
        remedy = f"it has {', '.join(splits)}" if UNSPLIT not in splits else "it is not split, so leave the split out"
        raise UserError(f"{source}: has no split {split!r}; {remedy}.")
    return splits[split]


def train_and_val(
    listing: DatasetIndex, source: str | Path, *, val_pattern: str | None, fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Return the training and the validation pairs.

    With `val_pattern`, the images whose names match are held out. Otherwise the splits "train" and "val" are returned
    if the listing has both, else a random `fraction` is held out.

    Raises:
        UserError: one of the two would be empty.
    """
    if val_pattern is not None:
        return _hold_out_matches(_without_test(listing, source), val_pattern, source)
    if {"train", "val"} <= listing.splits.keys():
        return listing.splits["train"], listing.splits["val"]
    return _hold_out_fraction(_without_test(listing, source), fraction, seed, source)


def require_fraction(fraction: float) -> None:
    """Raise a `UserError` unless `0 < fraction < 1`."""
    if not 0 < fraction < 1:
        raise UserError(f"fraction={fraction}: the part held out for validation must be between 0 and 1.")


def require_no_issues(listing: DatasetIndex, source: str | Path) -> None:
    """Raise a `UserError` with the first issue of a listing, if there is one."""
    if listing.issues:
        first, *others = listing.issues
        more = f" ({len(others)} more issues: run `upscore data check {source}`)" if others else ""
        raise UserError(first.message + more)


def _pool(splits: dict[str, list[Pair]]) -> list[Pair]:
    """Return the pairs of all splits, sorted by name; a name that occurs in several splits gets the split as prefix."""
    counts = Counter(pair.name for pairs in splits.values() for pair in pairs)
    pooled = [
        pair._replace(name=f"{split}/{pair.name}") if counts[pair.name] > 1 else pair
        for split, pairs in splits.items()
        for pair in pairs
    ]
    return sorted(pooled)


def _without_test(listing: DatasetIndex, source: str | Path) -> list[Pair]:
    """Return the pairs of all splits except the test split."""
    pairs = _pool({split: pairs for split, pairs in listing.splits.items() if split != "test"})
    if not pairs:
        raise UserError(f"{source}: has only a test split; add images for training.")
    return pairs


def _hold_out_matches(pairs: list[Pair], pattern: str, source: str | Path) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs whose names do not match the pattern, and those whose names match it."""

    def matches(pair: Pair) -> bool:
        return any(fnmatchcase(name, pattern) for name in (pair.name, pair.image.stem, pair.image.name))

    val = [pair for pair in pairs if matches(pair)]
    train = [pair for pair in pairs if not matches(pair)]
    if not val or not train:
        extent = "none" if not val else "all"
        raise UserError(
            f"val_pattern={pattern!r}: matches {extent} of the {len(pairs)} images of {source}, such as "
            f"{pairs[0].name}."
        )
    return train, val


def _hold_out_fraction(
    pairs: list[Pair], fraction: float, seed: int, source: str | Path
) -> tuple[list[Pair], list[Pair]]:
    """Return the training and the validation pairs of a random split, each in the order of `pairs`."""
    if len(pairs) < 2:
        raise UserError(f"{source}: has 1 image, but training and validation need at least one each; add images.")
    count = min(max(1, round(len(pairs) * fraction)), len(pairs) - 1)
    held_out = set(random.Random(seed).sample(range(len(pairs)), count))
    train = [pair for position, pair in enumerate(pairs) if position not in held_out]
    return train, [pairs[position] for position in sorted(held_out)]
