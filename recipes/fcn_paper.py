"""Tables 3 to 7 of the FCN paper (journal version) on the original data sets.

    python recipes/fcn_paper.py table3 VOC2011 --sbd benchmark_RELEASE --weights vgg16_from_caffe.pth --caffe
    python recipes/fcn_paper.py table4 VOC2012 --model runs/paper/table3/fcn8s
    python recipes/fcn_paper.py table5 nyud --weights vgg16_from_caffe.pth --caffe
    python recipes/fcn_paper.py table6 SiftFlowDataset --weights vgg16_from_caffe.pth --caffe
    python recipes/fcn_paper.py table7 FOLDER --weights vgg16_from_caffe.pth --caffe

`upscore data check DATA` checks whether the data is complete. Table 3 needs VOC 2011, or VOC 2012 with `--names
seg11valid.txt`, the list of the 736 images to score. FOLDER contains PASCAL-Context and VOC2010/.

FCN with VGG16 in Caffe's geometry, one whole image per step, summed loss, momentum 0.99
(`upscore.training.recipes.HEAVY`), 100,000 images each, 300,000 for FCN-8s at once. A network is scored only after
training, so that no epoch is selected by its score. `--weights` is a VGG16 file in torchvision's layout; with `--caffe`
it contains Caffe's weights, as in pytorch-fcn's file. Scores are some points lower with torchvision's weights.

Table 4 is scored by the VOC server, since its labels are not public; the masks are packed for upload.

In the paper, staged FCN-8s took 36 hours on a Titan X, and half of it at once; the mean IoU is 65.5% in table 3, 33.3%
in table 5, 41.2% in table 6 and 39.1% in table 7. OUTPUT/TABLE.md contains the paper's scores and those of the runs. An
interrupted run is resumed by the same command.
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

from upscore.console import Console
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
from upscore.training.dataset_stats import fit_depth_preprocessing
from upscore.training.init_weights import IMAGENET, NONE, load_initial_weights
from upscore.training.loader import default_workers
from upscore.training.recipes import HEAVY
from upscore.training.run_folder import RunFolder

Results = dict[str, dict[str, Any]]
"""Row -> scores of its network, as of `SemanticScores.to_json`."""

ONCE = 10**9
"""Epochs between validations, so that only the last epoch is validated."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted([*TABLES, "table4"]))
    parser.add_argument("data", type=Path)
    parser.add_argument("--sbd", type=Path, help="table 3: folder of SBD, the training data")
    parser.add_argument("--names", type=Path, help="table 3: list of the images to score")
    parser.add_argument("--model", type=Path, help="table 4: the run whose masks are uploaded")
    parser.add_argument("--year", type=int, choices=[2011, 2012], default=2012, help="table 4: year of the data")
    parser.add_argument("--weights", default=IMAGENET, help="imagenet (torchvision's), none, or a file")
    parser.add_argument("--caffe", action="store_true", help="the file contains Caffe's weights")
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--rows", nargs="+", help="rows to run, in addition to those that they start from")
    parser.add_argument("--images", type=int, help="number of training images instead of the paper's")
    parser.add_argument("--workers", type=int, default=default_workers(), help="number of loader workers")
    parser.add_argument("--output", type=Path, default=Path("runs/paper"))
    args = parser.parse_args(arguments)
    if args.table == "table4":
        if args.model is None:
            parser.error("table4 needs --model RUN, a run of table 3")
        archive = submit(args.model, args.data, args.output / "table4", year=args.year)
        print(
            f"{archive}: upload it to the VOC server as {COMPETITION} (mean IoU of the paper: 67.5% in 2011, 67.2% in "
            "2012)"
        )
        return
    if args.table == "table3" and args.sbd is None:
        parser.error("table3 needs --sbd FOLDER")
    if args.caffe and args.weights in (IMAGENET, NONE):
        parser.error("--caffe applies to a file of weights: add --weights FILE")
    if args.images is not None and args.images < 1:
        parser.error("--images must be 1 or more")
    table = TABLES[args.table]
    if unknown := set(args.rows or ()) - set(table.rows):
        parser.error(f"{args.table} has no row {min(unknown)!r}: choose from {', '.join(table.rows)}")
    chosen = with_dependencies(table, args.rows or list(table.rows))
    page = args.output / f"{args.table}.md"
    for name in chosen:
        run(table, name, args)
        write_text(page, report(args.table, read_results(table, args.output / args.table)))
    print(page.read_text(encoding="utf-8"))


def with_dependencies(table: Table, names: Sequence[str]) -> list[str]:
    """Return rows and those that they start from, in the order in which they have to run."""
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        for start in (table.rows[name].after, table.rows[name].depth_after):
            if start is not None:
                add(start)
        ordered[name] = None

    for name in names:
        add(name)
    return list(ordered)


def run(table: Table, name: str, args: argparse.Namespace) -> None:
    """Train and score the network of a row, unless it is finished."""
    row = table.rows[name]
    folder_of_table = args.output / args.table
    folder = RunFolder(folder_of_table / name)
    recipe = HEAVY.model_copy(
        update={"learning_rate": row.rate, "images": args.images or row.images, "validate_every": ONCE}
    )
    given = {"backbone": args.backbone, "weights": str(args.weights), "caffe": args.caffe}
    given |= {"data": str(args.data), "sbd": str(args.sbd), "names": str(args.names), "images": recipe.images}
    has_state = folder.open({"row": name, **given}, resume=True)
    if (folder.path / "result.json").exists():
        return
    train, test = open_data(table, row, args)
    torch.manual_seed(0)
    net = network(table, row, train, args)
    if row.after is not None:
        load_initial_weights(
            net, folder_of_table / row.after, None if row.depth_after is None else folder_of_table / row.depth_after
        )
    fit(
        net,
        train,
        test,
        recipe,
        folder,
        max_side=0,
        head_only=row.head_only,
        workers=args.workers,
        resume=has_state,
        provenance={**given, "recipe": recipe.model_dump(mode="json"), "train_images": len(train)},
        callbacks=[TerminalProgress(Console(stderr=True), f"{args.table} {row.title}")],
    )
    config = json.loads((folder.best / "model.json").read_text(encoding="utf-8"))
    write_text(folder.path / "result.json", json.dumps(config["scores"]["validation"]) + "\n")
    (folder.path / "state.pt").unlink(missing_ok=True)  # large, and not needed any more


def open_data(table: Table, row: Row, args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Open the training and test data of a row."""
    whole = table.train == "trainval" and "val" not in list_files(args.data).splits
    train, test = (
        open_dataset(args.data, split, sbd=args.sbd, depth_channels=row.depth_channels)
        for split in ("train" if whole else table.train, table.test)
    )
    if args.names is not None:
        listed = set(read_list(args.names) or ())
        indices = [index for index, name in enumerate(getattr(test, "names", ())) if name in listed]
        if not indices:
            raise UserError(f"{args.names} lists no image of {args.data} outside the training data: check --names")
        test = subset(test, indices)
    return train, test


def network(table: Table, row: Row, train: Dataset, args: argparse.Namespace) -> FCN:
    """Build the network of a row, with the weights of the classifier."""
    options: dict[str, Any] = {"geometry": "caffe"} if args.backbone == "vgg16" else {}
    if table.geometric:
        options["geometric_classes"] = len(geometric_classes(train))
    if row.depth is not None:
        options |= {"depth": row.depth, "depth_channels": row.depth_channels}
    fetched = args.weights == IMAGENET and row.after is None
    options |= {"backbone": args.backbone, "num_classes": len(train.classes), "pretrained": fetched}
    net = build(row.model, **options)
    assert isinstance(net, FCN)
    net.classes = list(train.classes)
    if isinstance(net, TwoHeads):
        net.geometric_classes = geometric_classes(train)
    if row.after is not None:
        return net
    load_initial_weights(net, args.weights)
    if args.caffe:
        net.backbone.preprocessing = replace(CAFFE, mean=table.mean)
    if row.depth_channels is not None:
        means = DEPTH_MEANS[row.depth_channels]
        authors = DepthPreprocessing(mean=means, std=(1.0,) * len(means))
        net.backbone.depth_preprocessing = authors if args.caffe else fit_depth_preprocessing(train, net.preprocessing)
    return net


def read_results(table: Table, folder_of_table: Path) -> Results:
    """Read the scores of the finished rows."""
    paths = {name: folder_of_table / name / "result.json" for name in table.rows}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def report(name: str, results: Results) -> str:
    """Return the page with the scores of the paper and of the finished runs."""
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
            text += f"\nScores without the background, over 59 classes:\n\n{lines}\n"
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
    """Compute pixel accuracy, mean accuracy, mean IoU and frequency-weighted IoU of a confusion matrix (C, C).

    Args:
        confusion: counts with rows of true classes.
        first: pixels of true classes before it are not counted.
        present: compute the mean IoU over the classes in the ground truth only, instead of all classes that occur.
    """
    counts = np.array(confusion, np.float64)[first:]
    correct, truth, predicted = counts.diagonal(first), counts.sum(1), counts.sum(0)[first:]
    union = truth + predicted - correct
    iu = correct / np.maximum(union, 1)
    counted = truth > 0 if present else union > 0
    pixels = max(truth.sum(), 1)
    accuracy = correct[truth > 0] / truth[truth > 0]
    means = [values.mean() if values.size else 0.0 for values in (accuracy, iu[counted])]
    return [float(score) for score in (correct.sum() / pixels, *means, (truth * iu).sum() / pixels)]


if __name__ == "__main__":
    main()
