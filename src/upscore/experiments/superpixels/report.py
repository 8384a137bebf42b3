"""The segments of photos as files, and a comparison as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from upscore.errors import UserError
from upscore.evaluation.semantic import SemanticScores
from upscore.experiments.superpixels.comparison import Comparison
from upscore.experiments.superpixels.figures import comparison_picture, plot_oracle, segments_picture
from upscore.files import atomic_path, write_text
from upscore.text import markdown_table

ENDINGS = ("_segments.png", "_ids.png")
MOST_IDS = 65_535


def refuse_overwriting(photos: dict[str, Path], output: Path) -> None:
    """Make sure that no photo, by the name of its output, is written over.

    Raises:
        UserError: one would be.
    """
    sources = {photo.resolve() for photo in photos.values()}
    for name in photos:
        for path in _beside(output / name):
            if path.resolve() in sources:
                raise UserError(f"{path} is a photo and would be overwritten: choose another --output")


def write_segments(photo: np.ndarray, segments: np.ndarray, base: Path, title: str) -> None:
    """Write `base_segments.png`, a picture, and `base_ids.png`: (H, W) 16-bit numbers of the segments, from 1.

    Raises:
        UserError: there are more segments than 16 bits can count, or a file can't be written.
    """
    picture, ids = _beside(base)
    if segments.max() >= MOST_IDS:
        raise UserError(f"{ids}: {segments.max() + 1:,} segments don't fit in 16 bits: give a lower --segments")
    with _writing(base):
        _save(Image.fromarray((segments + 1).astype(np.uint16)), ids)
        _save(segments_picture(photo, segments, title), picture)


def write_comparison(comparison: Comparison, output: Path, about: dict[str, object]) -> list[Path]:
    """Write METHOD.md, METHOD.json (with what it is `about`), METHOD_oracle.png and, where rows were kept, METHOD.png.

    Returns the paths. Raises:
        UserError: a file can't be written.
    """
    base = output / comparison.method
    written = [base.with_suffix(".md"), base.with_suffix(".json"), output / f"{comparison.method}_oracle.png"]
    with _writing(base):
        write_text(written[0], markdown(comparison, f"{comparison.method} on {about['data']}"))
        write_text(written[1], json.dumps({**about, **as_json(comparison)}, indent=2, allow_nan=False) + "\n")
        plot_oracle(comparison, written[2])
        if comparison.rows:
            written.append(base.with_suffix(".png"))
            _save(comparison_picture(comparison), written[-1])
    return written


def _beside(base: Path) -> list[Path]:
    return [base.with_name(base.name + ending) for ending in ENDINGS]


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary)


@contextmanager
def _writing(base: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or base}: can't be written ({error.strerror or error})") from error


CAVEAT = (
    "The oracle knows the answers: each segment gets the class that most of its labelled pixels have. It rises to 100% "
    "as segments shrink to single pixels, so it is read beside the number of segments: it says how well the outlines "
    "fit, not that anything was recognised."
)
PROTOCOL = (
    "Unsupervised looks at no label while it groups: the segments of the whole set are described by colour, texture, "
    "size and place, and k-means makes as many groups of them as there are classes. Labels then name each group, one "
    "class for one group over the whole set, so that most pixels are right (the Hungarian method)."
)
COLUMNS = ("", "segments", "pixel acc.", "mean acc.", "mean IoU", "f.w. IU")


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def score_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A line of `COLUMNS` for each way to give pixels their classes."""

    def row(name: str, segments: float | None, scores: SemanticScores) -> tuple[str, ...]:
        count = "" if segments is None else f"{segments:,.1f}"
        values = scores.pixel_accuracy, scores.mean_accuracy, scores.mean_iu, scores.frequency_weighted_iu
        return (name, count, *map(share, values))

    rows = [row("commonest class only", None, comparison.commonest)]
    rows += [row(f"{comparison.method}, oracle", oracle.segments, oracle.scores) for oracle in comparison.oracles]
    rows.append(row(f"{comparison.method}, unsupervised", comparison.oracle.segments, comparison.unsupervised))
    if comparison.network is not None:
        rows.append(row("FCN, trained", None, comparison.network))
    return rows


def class_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """IU of each class: its name, oracle, unsupervised and, where there is one, the network."""
    columns = [comparison.oracle.scores.per_class, comparison.unsupervised.per_class]
    if comparison.network is not None:
        columns.append(_named(comparison.network.per_class, comparison.classes))
    return [(name, *(share(column[name]) for column in columns)) for name in comparison.classes]


def class_columns(comparison: Comparison) -> tuple[str, ...]:
    return ("IU of each class", "oracle", "unsupervised", *(("FCN",) if comparison.network is not None else ()))


def conclusion(comparison: Comparison) -> str:
    """What follows for who has to decide whether to train."""
    oracle, unsupervised = comparison.oracle.scores.mean_iu, comparison.unsupervised.mean_iu
    count = f"{comparison.oracle.segments:.0f} segments a photo"
    network = None if comparison.network is None else comparison.network.mean_iu
    if network is None:
        if unsupervised >= 0.8 * oracle:
            return (
                f"Grouping by looks reaches {share(unsupervised)} mean IoU of the {share(oracle)} that {count} allow: "
                "these classes are told apart by colour and place, so try that before training a network."
            )
        return (
            f"{comparison.method} draws outlines that would be worth {share(oracle)} mean IoU with the right names "
            f"({count}), but finds {share(unsupervised)} without labels: what things are takes training, as "
            "upscore train does."
        )
    if network <= unsupervised:
        return (
            f"The FCN's {share(network)} mean IoU is not higher than {share(unsupervised)} of grouping without labels: "
            "train the network longer or on more images, or use the grouping."
        )
    if network <= oracle:
        return (
            f"Looks alone give {share(unsupervised)} mean IoU and the FCN {share(network)}: labels are what was "
            f"missing, for the outlines were there, good for {share(oracle)} with the right names ({count})."
        )
    return (
        f"The FCN's {share(network)} mean IoU is beyond {share(oracle)}, which an oracle gets out of "
        f"{comparison.method}'s segments ({count}), and far from the {share(unsupervised)} of looks alone: train."
    )


def markdown(comparison: Comparison, title: str) -> str:
    parts = [
        f"# {title}",
        conclusion(comparison),
        markdown_table(COLUMNS, score_rows(comparison)),
        CAVEAT,
        PROTOCOL,
        markdown_table(class_columns(comparison), class_rows(comparison)),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Scores by name; segments are means per photo."""
    return {
        "method": comparison.method,
        "photos": comparison.photos,
        "conclusion": conclusion(comparison),
        "commonest": comparison.commonest.to_json(),
        "oracle": [
            {"aimed": oracle.aimed, "segments": oracle.segments, **oracle.scores.to_json()}
            for oracle in comparison.oracles
        ],
        "unsupervised": {
            "aimed": comparison.aimed,
            "segments": comparison.oracle.segments,
            **comparison.unsupervised.to_json(),
        },
        "network": None if comparison.network is None else comparison.network.to_json(),
    }


def _named(per_class: dict[str, float | None], classes: list[str]) -> dict[str, float | None]:
    """By the data's names; where the network has none of them, by order."""
    if set(per_class) & set(classes):
        return {name: per_class.get(name) for name in classes}
    return dict(zip(classes, per_class.values(), strict=True))
