"""Mask R-CNN with EfficientNet-Lite0 on the nuclei of the 2018 Data Science Bowl, with the default recipe.

    python recipes/nuclei.py NUCLEI --output runs/nuclei
    python recipes/nuclei.py NUCLEI --model runs/nuclei --docs docs/results --ship models/nuclei

NUCLEI contains `images/` and `labels/` (16-bit label maps), and optionally `index.csv` with the columns `id` and
`type`, the modality. Training is that of `upscore train NUCLEI --model mask_rcnn --output OUTPUT`. An interrupted run
is resumed by the same command.

The validation images, a fifth of all, are scored in original size and by modality. The table is written to nuclei.md in
OUTPUT, or in `--docs`, and a figure of six images to nuclei.jpg in OUTPUT. `--model` scores an existing model, and
`--ship` writes it as float16; that model can be scored with `--model`.

60 minutes on 2 cores with other load; AP at IoU 0.5 as StarDist defines it 85.1% on fluorescence and 82.5% on all, mask
AP (COCO) 64.7%.
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
from rich.progress import track

from upscore.annotations import ObjectAnnotations
from upscore.checkpoints import load_model, save_model
from upscore.console import Console
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
MAX_SIZE = 15_000_000
"""Largest size in bytes of a model in the package."""


@dataclass(frozen=True)
class Example:
    """An image of the figure with its labelled and predicted objects."""

    sample: Sample
    modality: str
    objects: ObjectAnnotations
    predicted: InstanceResult


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/nuclei"))
    parser.add_argument("--epochs", type=int, help="number of epochs instead of the recipe's, for a trial")
    parser.add_argument("--model", type=Path, help="score this model or run instead of training one")
    parser.add_argument("--docs", type=Path, help="folder of the table")
    parser.add_argument("--export_half", type=Path, help="write the model to this folder as float16")
    args = parser.parse_args(arguments)

    console = Console(stderr=True)
    if args.model is None:
        train_model(args.data, args.output, args.epochs, console)
    source = args.model or args.output
    _, val = open_instance_splits(args.data)
    scores, examples = evaluate(load(source), val, read_modalities(args.data), console)

    table, picture = args.output / "nuclei.md", args.output / "nuclei.jpg"
    if args.docs:
        table = args.docs / table.name
    with atomic_path(picture) as temporary:
        draw(examples).save(temporary, quality=88)
    text = report(scores, minutes(source))
    write_text(table, text)
    print(text)
    if args.export_half:
        export_half(source, args.export_half)


def train_model(data: Path, output: Path, epochs: int | None, console: Console) -> None:
    """Train as `upscore train DATA --model mask_rcnn --output OUTPUT --resume`."""
    callbacks = [TerminalProgress(console, "nuclei")]
    train(str(data), output, model="mask_rcnn", epochs=epochs, resume=True, callbacks=callbacks)


def read_modalities(data: Path) -> dict[str, str]:
    """Read the modality of each image by name; empty without index.csv."""
    index = data / "index.csv"
    if not index.exists():
        return {}
    with index.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["type"] for row in csv.DictReader(file)}


def evaluate(
    model: Model, val: InstanceDataset, modalities: Mapping[str, str], console: Console
) -> tuple[dict[str, InstanceScores], list[Example]]:
    """Return the scores of all images and of each modality, and the examples of the figure."""
    assert isinstance(model.module, MaskRCNN)
    limit, score_threshold = model.module.max_detections, model.module.score_threshold
    whole, evaluators = InstanceEvaluator(model.classes, max_detections=limit), {}
    first: dict[str, list[Example]] = {}
    for index in track(range(len(val)), "Evaluating", console=console, transient=True):
        sample = val[index]
        found, objects = as_instances(model.predict(sample.image, score_threshold=0.0)), sample.objects
        assert objects is not None
        whole.update(found, objects)
        modality = modalities.get(sample.name, UNKNOWN)
        evaluators.setdefault(modality, InstanceEvaluator(model.classes, max_detections=limit)).update(found, objects)
        group = first.setdefault(modality, [])
        if len(group) < PICTURES:
            group.append(Example(sample, modality, objects, found.filter(score_threshold=score_threshold)))
    scores = {
        name: evaluator.scores(score_threshold) for name, evaluator in [(ALL, whole), *sorted(evaluators.items())]
    }
    return scores, choose_examples(first)


def choose_examples(groups: Mapping[str, Sequence[Example]]) -> list[Example]:
    """Choose the first images of each modality in turn, and sort them by modality."""
    in_turn = [entry for entry in chain(*zip_longest(*groups.values())) if entry is not None]
    return sorted(in_turn[:PICTURES], key=lambda entry: entry.modality)


def draw(examples: Sequence[Example]) -> Image.Image:
    """Draw the images, the labelled objects and the predicted objects in three rows."""
    images, labelled, predicted = [], [], []
    for entry in examples:
        image = entry.sample.image.permute(1, 2, 0).numpy()
        images.append(Image.fromarray(image))
        labelled.append(labels_overlay(image, entry.objects))
        predicted.append(instance_overlay(image, entry.predicted, ["nucleus"], legend=False))
    titles = [
        [entry.modality.replace("_", " ") for entry in examples],
        [f"{len(entry.objects)} labelled" for entry in examples],
        [f"{len(entry.predicted)} predicted" for entry in examples],
    ]
    rows = zip((images, labelled, predicted), titles, strict=True)
    return stack([side_by_side([_scaled(picture) for picture in row], title) for row, title in rows])


def labels_overlay(image: np.ndarray, objects: ObjectAnnotations) -> Image.Image:
    """Draw the labelled objects on the image in different colours, like `instance_overlay` for predictions."""
    id_map = objects.id_map[0].numpy()
    id_colors = np.zeros((id_map.max() + 1, 3), np.uint8)
    id_colors[objects.ids.numpy()] = object_colors(objects.boxes.numpy())
    picture = Image.fromarray(image)
    painted = blend(picture, Image.fromarray(id_colors[id_map]), 0.55)
    if line := line_width(picture.size):
        light = (id_colors * 0.35 + 255 * 0.65).astype(np.uint8)
        painted.paste(Image.fromarray(light[id_map]), mask=Image.fromarray(borders(id_map, line) * np.uint8(220)))
    return Image.composite(painted, picture, Image.fromarray((id_map > 0) * np.uint8(255)))


def _scaled(picture: Image.Image) -> Image.Image:
    width = round(picture.width * HEIGHT / picture.height)
    return picture.resize((width, HEIGHT), Image.Resampling.LANCZOS)


def report(scores: dict[str, InstanceScores], minutes: float | None) -> str:
    """Return the page with the scores."""
    whole, fluorescence = scores[ALL], scores.get("fluorescence")
    title = ["", "images", "nuclei", *(f"AP({iou})" for iou in IOUS), "F1(0.5)", "mask AP", "AP50"]
    rows = []
    for name, entry in scores.items():
        values = [*(entry.ap_dsb[iou] for iou in IOUS), entry.f1["0.5"], entry.AP, entry.AP50]
        rows.append([name.replace("_", " "), str(entry.images), str(entry.objects), *map(_percent, values)])
    ours = f"Here it is {_percent(fluorescence.ap_dsb['0.5'])} on fluorescence. " if fluorescence else ""
    time = f" Training took {minutes:.0f} minutes including validation." if minutes else ""
    return f"""\
# Nuclei in microscope images

    python recipes/nuclei.py NUCLEI --output runs/nuclei

Mask R-CNN with EfficientNet-Lite0-FPN and ImageNet weights in the backbone, trained by
`upscore train NUCLEI --model mask_rcnn --output runs/nuclei`; one seed.{time}
The scores are those of the {whole.images} validation images ({whole.objects} nuclei) in original size. They are
slightly optimistic: the best epoch and the score threshold ({whole.score_threshold:.2f}) were chosen on the same
images.

AP(t) is average precision at IoU t as StarDist and DSB2018 define it, TP / (TP + FP + FN) over all nuclei;
F1(t) is 2 TP / (2 TP + FP + FN). Mask AP and AP50 are COCO's.

{markdown_table(title, rows)}

The StarDist paper (Schmidt et al. 2018) reports 83.2% for Mask R-CNN and 86.4% for StarDist, as AP(0.5) on a
fluorescence subset of the same data. {ours}The test images differ, so these numbers do not rank the networks.
"""


def minutes(run: Path) -> float | None:
    """Return the training time of a run in minutes; None for a model folder."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return None
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sum(record["seconds"] + record.get("validation_seconds", 0) for record in records) / 60


def export_half(source: Path, folder: Path) -> None:
    """Write a model as float16, with the class name "nucleus" and without the path of its data."""
    net, config = load_model(source)
    training = {**config.training, "data": Path(config.training.get("data", "nuclei")).name}
    save_model(
        folder, net, classes=["nucleus"], max_side=config.max_side, training=training, scores=config.scores, half=True
    )
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB")
    if size >= MAX_SIZE:
        raise SystemExit(f"{folder} must have less than {MAX_SIZE / 1e6:.0f} MB")


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


if __name__ == "__main__":
    main()
