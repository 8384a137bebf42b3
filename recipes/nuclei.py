"""Mask R-CNN over EfficientNet-Lite0 on the nuclei of the 2018 Data Science Bowl, by the default recipe.

    python recipes/nuclei.py NUCLEI --output runs/nuclei
    python recipes/nuclei.py NUCLEI --model runs/nuclei --docs docs/results --ship models/nuclei

NUCLEI holds `images/` and `labels/` (16-bit, a nucleus's number per pixel), and perhaps `index.csv`, whose columns `id`
and `type` tell the modality. The training is that of `upscore train NUCLEI --model mask_rcnn --output OUTPUT`.
Interrupted, the same command goes on where it stopped.

The fifth of the photos that the run holds out is scored at its own size, by modality, in nuclei.md in OUTPUT, or in
`--docs`; nuclei.jpg in OUTPUT shows six of them. `--model` scores a model that is there, and `--ship` writes it as
float16, to be scored by `--model` like any other.

60 minutes on 2 cores, beside other work; AP at IoU 0.5 as StarDist defines it 85.1% on fluorescence and 82.5% on all,
mask AP (COCO) 64.7%.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from upscore.annotations import ObjectAnnotations
from upscore.checkpoints import load_model, save_model
from upscore.data.instance_datasets import InstanceDataset, open_instance_splits
from upscore.data.samples import Sample
from upscore.evaluation.instances import InstanceEvaluator, InstanceScores
from upscore.files import atomic_path, write_text
from upscore.inference import Model, load
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.results import InstanceResult, as_instances
from upscore.text import markdown_table
from upscore.training import train
from upscore.training.callbacks import TerminalProgress
from upscore.viz.legend import stack
from upscore.viz.overlays import blend, borders, instance_overlay, line_width, object_colors, side_by_side

ALL, UNKNOWN = "all", "of unknown modality"
IOUS = ("0.5", "0.6", "0.7", "0.8", "0.9")
PICTURES, HEIGHT = 6, 320
LARGEST_SHIPPED = 15_000_000
"""Bytes."""


@dataclass(frozen=True)
class Shown:
    """A photo for the picture, what is labelled in it and what was found."""

    sample: Sample
    modality: str
    objects: ObjectAnnotations
    found: InstanceResult


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/nuclei"))
    parser.add_argument("--epochs", type=int, help="fewer passes over the photos than the recipe has, to try it out")
    parser.add_argument("--model", type=Path, help="score this model or run instead of training one")
    parser.add_argument("--docs", type=Path, help="where the table goes")
    parser.add_argument("--ship", type=Path, help="write the model here too, as float16")
    asked = parser.parse_args(arguments)

    console = Console(stderr=True)
    if asked.model is None:
        learn(asked.data, asked.output, asked.epochs, console)
    source = asked.model or asked.output
    _, val = open_instance_splits(asked.data)
    scores, shown = evaluate(load(source), val, read_modalities(asked.data), console)

    table, picture = asked.output / "nuclei.md", asked.output / "nuclei.jpg"
    if asked.docs:
        table = asked.docs / table.name
    with atomic_path(picture) as temporary:
        draw(shown).save(temporary, quality=88)
    text = report(scores, minutes(source))
    write_text(table, text)
    print(text)
    if asked.ship:
        ship(source, asked.ship)


def learn(data: Path, output: Path, epochs: int | None, console: Console) -> None:
    """What `upscore train DATA --model mask_rcnn --output OUTPUT --resume` does."""
    callbacks = [TerminalProgress(console, "nuclei")]
    train(str(data), output, model="mask_rcnn", epochs=epochs, resume=True, callbacks=callbacks)


def read_modalities(data: Path) -> dict[str, str]:
    """Of each photo by its name, where there is an index."""
    index = data / "index.csv"
    if not index.exists():
        return {}
    with index.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["type"] for row in csv.DictReader(file)}


def evaluate(
    model: Model, val: InstanceDataset, modalities: Mapping[str, str], console: Console
) -> tuple[dict[str, InstanceScores], list[Shown]]:
    """The scores of all and of each modality, and what the picture shows."""
    assert isinstance(model.module, MaskRCNN)
    limit, score_threshold = model.module.max_detections, model.module.score_threshold
    whole, evaluators = InstanceEvaluator(model.classes, max_detections=limit), {}
    first: dict[str, list[Shown]] = {}
    for index in track(range(len(val)), "Evaluating", console=console, transient=True):
        sample = val[index]
        found, objects = as_instances(model.predict(sample.image, score_threshold=0.0)), sample.objects
        assert objects is not None
        whole.update(found, objects)
        modality = modalities.get(sample.name, UNKNOWN)
        evaluators.setdefault(modality, InstanceEvaluator(model.classes, max_detections=limit)).update(found, objects)
        group = first.setdefault(modality, [])
        if len(group) < PICTURES:
            group.append(Shown(sample, modality, objects, found.filter(score_threshold=score_threshold)))
    scores = {
        name: evaluator.scores(score_threshold) for name, evaluator in [(ALL, whole), *sorted(evaluators.items())]
    }
    return scores, choose(first)


def choose(groups: Mapping[str, Sequence[Shown]]) -> list[Shown]:
    """The first photos of each modality in turn, whatever was found in them; those of a modality side by side."""
    in_turn = [entry for entry in chain(*zip_longest(*groups.values())) if entry is not None]
    return sorted(in_turn[:PICTURES], key=lambda entry: entry.modality)


def draw(shown: Sequence[Shown]) -> Image.Image:
    """Photos, beneath them what is labelled, beneath that what was found."""
    photos, labelled, found = [], [], []
    for entry in shown:
        image = entry.sample.image.permute(1, 2, 0).numpy()
        photos.append(Image.fromarray(image))
        labelled.append(labels_overlay(image, entry.objects))
        found.append(instance_overlay(image, entry.found, ["nucleus"], legend=False))
    titles = [
        [entry.modality.replace("_", " ") for entry in shown],
        [f"{len(entry.objects)} labelled" for entry in shown],
        [f"{len(entry.found)} found" for entry in shown],
    ]
    rows = zip((photos, labelled, found), titles, strict=True)
    return stack([side_by_side([_scaled(picture) for picture in row], title) for row, title in rows])


def labels_overlay(image: np.ndarray, objects: ObjectAnnotations) -> Image.Image:
    """The photo with every labelled object in a colour of its own, as `instance_overlay` paints those found."""
    id_map = objects.id_map[0].numpy()
    of_id = np.zeros((id_map.max() + 1, 3), np.uint8)
    of_id[objects.ids.numpy()] = object_colors(objects.boxes.numpy())
    photo = Image.fromarray(image)
    painted = blend(photo, Image.fromarray(of_id[id_map]), 0.55)
    if line := line_width(photo.size):
        light = (of_id * 0.35 + 255 * 0.65).astype(np.uint8)
        painted.paste(Image.fromarray(light[id_map]), mask=Image.fromarray(borders(id_map, line) * np.uint8(220)))
    return Image.composite(painted, photo, Image.fromarray((id_map > 0) * np.uint8(255)))


def _scaled(picture: Image.Image) -> Image.Image:
    width = round(picture.width * HEIGHT / picture.height)
    return picture.resize((width, HEIGHT), Image.Resampling.LANCZOS)


def report(scores: dict[str, InstanceScores], minutes: float | None) -> str:
    """The page."""
    whole, fluorescence = scores[ALL], scores.get("fluorescence")
    title = ["", "photos", "nuclei", *(f"AP_dsb {iou}" for iou in IOUS), "F1 at 0.5", "mask AP", "AP50"]
    rows = []
    for name, of in scores.items():
        shares = [*(of.ap_dsb[iou] for iou in IOUS), of.f1["0.5"], of.AP, of.AP50]
        rows.append([name.replace("_", " "), str(of.images), str(of.objects), *map(_share, shares)])
    ours = f"On fluorescence, {_share(fluorescence.ap_dsb['0.5'])} was reached here. " if fluorescence else ""
    time = f" Training took {minutes:.0f} minutes, validations included." if minutes else ""
    return f"""\
# Nuclei in microscope photos

    python recipes/nuclei.py NUCLEI --output runs/nuclei

Mask R-CNN over EfficientNet-Lite0-FPN with the backbone's ImageNet weights, trained as
`upscore train NUCLEI --model mask_rcnn --output runs/nuclei` does; one seed.{time}
The scores are those of the {whole.images} photos ({whole.objects} nuclei) that the run holds out, at their own size.
The best epoch and the score threshold ({whole.score_threshold:.2f}) were chosen on the same photos, so the scores are
slightly optimistic.

AP_dsb is average precision at an IoU threshold as StarDist and DSB2018 define it, TP / (TP + FP + FN) over all nuclei;
F1 is 2 TP / (2 TP + FP + FN). Mask AP and AP50 are COCO's.

{markdown_table(title, rows)}

The StarDist paper (Schmidt et al. 2018) has 83.2% for Mask R-CNN and 86.4% for StarDist, as AP_dsb at 0.5 on a
fluorescence subset of the same data. {ours}That is not the same split: the photos are others, so these
numbers do not rank the networks.
"""


def minutes(run: Path) -> float | None:
    """How long a run took; None where the model is no run."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return None
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sum(record["seconds"] + record.get("validation_seconds", 0) for record in records) / 60


def ship(source: Path, folder: Path) -> None:
    """Write a model as float16, its class by its name, without the place that its data had."""
    net, config = load_model(source)
    training = {**config.training, "data": Path(config.training.get("data", "nuclei")).name}
    save_model(
        folder, net, classes=["nucleus"], max_side=config.max_side, training=training, scores=config.scores, half=True
    )
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB")
    if size >= LARGEST_SHIPPED:
        raise SystemExit(f"that is not less than {LARGEST_SHIPPED / 1e6:.0f} MB")


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


if __name__ == "__main__":
    main()
