"""The FCN paper's tables 3 to 7 (journal version) as they were made, for who has the data sets.

    python recipes/fcn_paper.py table3 VOC2011 --sbd benchmark_RELEASE --weights vgg16_from_caffe.pth --caffe
    python recipes/fcn_paper.py table4 VOC2012 --model runs/paper/table3/fcn8s
    python recipes/fcn_paper.py table5 nyud --weights vgg16_from_caffe.pth --caffe
    python recipes/fcn_paper.py table6 SiftFlowDataset --weights vgg16_from_caffe.pth --caffe
    python recipes/fcn_paper.py table7 FOLDER --weights vgg16_from_caffe.pth --caffe

`upscore data check DATA` tells whether the data is whole. Table 3 needs VOC 2011, or VOC 2012 with `--names
seg11valid.txt`, the list of the 736 photos to score. FOLDER holds PASCAL-Context and VOC2010/.

FCN over VGG16 in Caffe's geometry, one whole photo a step, the loss summed, momentum 0.99
(`upscore.training.recipes.HEAVY`), for 100,000 photos each, 300,000 at once. A network is scored once, when it is
trained, so nothing is chosen by the scores. `--weights` is a file of VGG16 in torchvision's layout; with `--caffe` its
numbers are Caffe's, as pytorch-fcn's file has them; expect points less from torchvision's own.

Table 4 is the VOC server's, whose labels nobody else has: the masks are packed as it takes them.

Staged FCN-8s took the paper 36 hours on one Titan X, and half of it at once; table 3's mean IoU is 65.5% there, table
5's 33.3%, table 6's 41.2%, table 7's 39.1%. OUTPUT/TABLE.md has all scores beside yours. Interrupted, the same command
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fcn_paper_server import COMPETITION, submit
from fcn_paper_tables import DEPTH_MEANS, GEOMETRIC, SCORES, TABLES, Row, Table
from rich.console import Console

from upscore.data.datasets import Dataset, geometric_classes, list_files, open_dataset, subset
from upscore.data.formats.folder import read_list
from upscore.errors import UserError
from upscore.files import write_text
from upscore.models import build
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.preprocessing import CAFFE, DepthPreprocessing
from upscore.text import markdown_table
from upscore.training import fit
from upscore.training.callbacks import TerminalProgress
from upscore.training.dataset_stats import fitting_depth
from upscore.training.init_weights import IMAGENET, NONE, start_from
from upscore.training.loader import default_workers
from upscore.training.recipes import HEAVY
from upscore.training.run_folder import RunFolder

Results = dict[str, dict[str, Any]]
"""row -> the scores of its network, as `SemanticScores.to_json` has them."""

ONCE = 10**9
"""Epochs between validations: there is one, at the end."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted([*TABLES, "table4"]))
    parser.add_argument("data", type=Path)
    parser.add_argument("--sbd", type=Path, help="of table 3: the folder of SBD, which is trained on")
    parser.add_argument("--names", type=Path, help="of table 3: a list of the photos to score")
    parser.add_argument("--model", type=Path, help="of table 4: the run whose masks are sent")
    parser.add_argument("--year", type=int, choices=[2011, 2012], default=2012, help="of table 4: of the data")
    parser.add_argument("--weights", default=IMAGENET, help="imagenet (torchvision's), none, or a file")
    parser.add_argument("--caffe", action="store_true", help="the file of weights has Caffe's numbers")
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--rows", nargs="+", help="the rows to run, and those that they start from")
    parser.add_argument("--images", type=int, help="seen by each network, instead of the paper's number")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes that read photos")
    parser.add_argument("--output", type=Path, default=Path("runs/paper"))
    asked = parser.parse_args(arguments)
    if asked.table == "table4":
        if asked.model is None:
            parser.error("table4 needs --model RUN, a run of table 3")
        archive = submit(asked.model, asked.data, asked.output / "table4", year=asked.year)
        print(f"{archive}: send it to the VOC server as {COMPETITION} (paper's mean IoU: 67.5% in 2011, 67.2% in 2012)")
        return
    if asked.table == "table3" and asked.sbd is None:
        parser.error("table3 needs --sbd FOLDER")
    if asked.caffe and asked.weights in (IMAGENET, NONE):
        parser.error("--caffe says what numbers a file has: add --weights FILE")
    if asked.images is not None and asked.images < 1:
        parser.error("--images must be 1 or more")
    table = TABLES[asked.table]
    if unknown := set(asked.rows or ()) - set(table.rows):
        parser.error(f"{asked.table} has no row {min(unknown)!r}; it has {', '.join(table.rows)}")
    chosen = with_starts(table, asked.rows or table.rows)
    page = asked.output / f"{asked.table}.md"
    for name in chosen:
        run(table, name, asked)
        write_text(page, report(asked.table, read_results(table, asked.output / asked.table)))
    print(page.read_text(encoding="utf-8"))


def with_starts(table: Table, names: Sequence[str]) -> list[str]:
    """The rows and those that they start from, in the order in which they are to be run."""
    wanted: dict[str, None] = {}

    def want(name: str) -> None:
        for start in (table.rows[name].after, table.rows[name].depth_after):
            if start is not None:
                want(start)
        wanted[name] = None

    for name in names:
        want(name)
    return list(wanted)


def run(table: Table, name: str, asked: argparse.Namespace) -> None:
    """Train and score the network of a row, unless that has been done."""
    row = table.rows[name]
    home = asked.output / asked.table
    folder = RunFolder(home / name)
    recipe = HEAVY.model_copy(
        update={"learning_rate": row.rate, "images": asked.images or row.images, "validate_every": ONCE}
    )
    given = {"backbone": asked.backbone, "weights": str(asked.weights), "caffe": asked.caffe}
    given |= {"data": str(asked.data), "sbd": str(asked.sbd), "names": str(asked.names), "images": recipe.images}
    begun = folder.open({"row": name, **given}, resume=True)
    if (folder.path / "result.json").exists():
        return
    train, test = open_data(table, row, asked)
    torch.manual_seed(0)
    net = network(table, row, train, asked)
    if row.after is not None:
        start_from(net, home / row.after, None if row.depth_after is None else home / row.depth_after)
    fit(
        net,
        train,
        test,
        recipe,
        folder,
        max_side=0,
        head_only=row.head_only,
        workers=asked.workers,
        resume=begun,
        provenance={**given, "recipe": recipe.model_dump(mode="json"), "train_images": len(train)},
        callbacks=[TerminalProgress(Console(stderr=True), f"{asked.table} {row.title}")],
    )
    card = json.loads((folder.best / "model.json").read_text(encoding="utf-8"))
    write_text(folder.path / "result.json", json.dumps(card["scores"]["validation"]) + "\n")
    (folder.path / "state.pt").unlink(missing_ok=True)  # larger than all else, and of no more use


def open_data(table: Table, row: Row, asked: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """What a row trains on, and what it is scored on."""
    whole = table.train == "trainval" and "val" not in list_files(asked.data).splits
    train, test = (
        open_dataset(asked.data, split, sbd=asked.sbd, depth_channels=row.depth_channels)
        for split in ("train" if whole else table.train, table.test)
    )
    if asked.names is not None:
        listed = set(read_list(asked.names) or ())
        indices = [index for index, name in enumerate(getattr(test, "names", ())) if name in listed]
        if not indices:
            raise UserError(f"{asked.names}: names none of the photos of {asked.data} that are not trained on")
        test = subset(test, indices)
    return train, test


def network(table: Table, row: Row, train: Dataset, asked: argparse.Namespace) -> FCN:
    """The network of a row, with the classifier's weights."""
    options: dict[str, Any] = {"geometry": "caffe"} if asked.backbone == "vgg16" else {}
    if table.geometric:
        options["geometric_classes"] = len(geometric_classes(train))
    if row.depth is not None:
        options |= {"depth": row.depth, "depth_channels": row.depth_channels}
    fetched = asked.weights == IMAGENET and row.after is None
    options |= {"backbone": asked.backbone, "num_classes": len(train.classes), "pretrained": fetched}
    net = build(row.model, **options)
    assert isinstance(net, FCN)
    net.classes = list(train.classes)
    if isinstance(net, TwoHeads):
        net.geometric_classes = geometric_classes(train)
    if row.after is not None:
        return net
    start_from(net, asked.weights)
    if asked.caffe:
        net.backbone.preprocessing = replace(CAFFE, mean=table.mean)
    if row.depth_channels is not None:
        means = DEPTH_MEANS[row.depth_channels]
        authors = DepthPreprocessing(mean=means, std=(1.0,) * len(means))
        net.backbone.depth_preprocessing = authors if asked.caffe else fitting_depth(train, net.preprocessing)
    return net


def read_results(table: Table, home: Path) -> Results:
    """The scores of the rows that are finished."""
    paths = {name: home / name / "result.json" for name in table.rows}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def report(name: str, results: Results) -> str:
    """The page: the paper's scores, and yours as far as there are any."""
    table = TABLES[name]
    titles = (*SCORES, GEOMETRIC) if table.geometric else SCORES
    heads = ["", *(f"{title}, {whose}" for title in titles for whose in ("paper", "yours"))]
    lines = markdown_table(heads, _lines(table, results, titles), escape=False)
    text = f"# {table.title}\n\n{table.about}\n\n{lines}\n"
    if table.without_background:
        own = [
            [table.rows[row].title, *(f"{score:.1%}" for score in four_scores(results[row]["confusion"], first=1))]
            for row in results
        ]
        if own:
            lines = markdown_table(["", *SCORES], own, escape=False)
            text += f"\nYours without the background, over 59 classes:\n\n{lines}\n"
    return text


def _lines(table: Table, results: Results, titles: Sequence[str]) -> list[list[str]]:
    lines = []
    for name, row in table.rows.items():
        paper = [f"{score}%" for score in row.paper] or [""] * len(titles)
        yours = [""] * len(titles)
        if scores := results.get(name):
            measured = four_scores(scores["confusion"], present=table.present)
            if table.geometric:
                measured.append(scores["geometric"]["pixel_accuracy"])
            yours = [f"{score:.1%}" for score in measured]
        lines.append([row.title, *(cell for pair in zip(paper, yours, strict=True) for cell in pair)])
    return lines


def four_scores(confusion: Sequence[Sequence[int]], *, first: int = 0, present: bool = False) -> list[float]:
    """Pixel accuracy, mean accuracy, mean IoU and frequency-weighted IU of (C, C) counts, true class by predicted one.

    Pixels of true classes before `first` do not count. The mean IoU is over the classes that occur, or, with `present`,
    over those that are in the truth: one that is predicted where there is none then takes no part.
    """
    counts = np.array(confusion, np.float64)[first:]
    right, truth, predicted = counts.diagonal(first), counts.sum(1), counts.sum(0)[first:]
    union = truth + predicted - right
    iu = right / np.maximum(union, 1)
    counted = truth > 0 if present else union > 0
    pixels = max(truth.sum(), 1)
    accuracy = right[truth > 0] / truth[truth > 0]
    means = [values.mean() if values.size else 0.0 for values in (accuracy, iu[counted])]
    return [float(score) for score in (right.sum() / pixels, *means, (truth * iu).sum() / pixels)]


if __name__ == "__main__":
    main()
