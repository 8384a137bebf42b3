"""Chapters about nuclei in microscope images: the model that ships with the package, and one trained by the demo."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from upscore.annotations import ObjectAnnotations
from upscore.data.datasets import Dataset
from upscore.data.example import example_path
from upscore.data.instance_datasets import open_instance_splits
from upscore.data.samples import Sample
from upscore.demo.page import (
    Chapter,
    Html,
    boxes_picture,
    colors_of,
    figure,
    heading,
    image_picture,
    join,
    mask_picture,
    object_picture,
    objects_picture,
    picture,
    region_picture,
    row,
    score_table,
    stressed,
    terminal,
    text,
    tile,
)
from upscore.evaluation.instances import InstanceScores
from upscore.inference import Model, evaluate, load
from upscore.models.build import build
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.models.mask_rcnn.presets import Limits
from upscore.progress import ProgressCallback
from upscore.results import as_instances
from upscore.training.callbacks import Callback
from upscore.training.loop import fit
from upscore.training.precision import choose_precision
from upscore.training.recipes import MODERN_INSTANCES, Recipe
from upscore.training.run_folder import RunFolder

SHIPPED, NAME = "nuclei", "nuclei"
"""The built-in model, and the folder of the trained one in the demo's output."""

MAX_DETECTIONS = 150
"""Half as many again as there are nuclei in the fullest image."""

PROPOSALS = Limits(before_nms=600, after_nms=300)
"""Proposals of each crop in training."""

BUILT_IN_IMAGES, BUILT_IN_MINUTES = 456, 60
"""What the built-in model was trained on, and for how long on two cores (docs/results/nuclei.md)."""

SHOWN = ("fluorescence_03", "fluorescence_07", "stained_02", "stained_05")
COMPARED = ("fluorescence_01", "fluorescence_10", "stained_01", "stained_03")
EXPLAINED = "fluorescence_10"
LEARNED_FROM = (
    "fluorescence_04",
    "fluorescence_09",
    "fluorescence_18",
    "stained_02",
    "stained_06",
    "stained_10",
)
"""Names of images on the page: held-out ones in three figures, and images that the demo trains on."""

SHOWN_PROPOSALS = 40
AMBER = (230, 126, 0)
"""The colour of proposals, which have no class yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleiSettings:
    """How the demo trains on the example data set: shorter than the default recipe, and with fewer regions."""

    images: int = 400
    """Random crops that the network sees."""
    min_side: int = 384
    """The size to which images are enlarged, in pixels."""
    crop: int = 256
    regions: int = 128
    """Regions of each crop from which the heads learn; the paper's networks with a feature pyramid use 512."""

    def recipe(self, length: int) -> Recipe:
        """The recipe for a training set of `length` images; it validates once, at the end."""
        changes = {
            "images": self.images,
            "crop": self.crop,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "ema": 0.97,
            "validate_every": math.ceil(self.images / length),
        }
        return MODERN_INSTANCES.model_copy(update=changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a model finds in the held-out images."""

    scores: InstanceScores
    label_maps: dict[str, np.ndarray]
    """(H, W) by the name of the image: the number of an object per pixel, 0 for the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How one object comes about, in the image (H, W, 3)."""

    image: np.ndarray
    proposals: np.ndarray
    """(P, 4), boxes in pixels of the image, best first."""
    boxes: np.ndarray
    """(N, 4) of the objects found."""
    label_map: np.ndarray
    largest: int
    """The position of the object whose mask is shown."""
    mask: np.ndarray
    """(m, m), 0 to 1."""
    bitmask: np.ndarray
    """(H, W) bool."""


def held_out() -> Dataset:
    """The 16 images of the example data set that neither model was trained on."""
    return open_instance_splits(example_path())[1]


def score(model: Model, images: Dataset, progress: ProgressCallback) -> Found:
    """Evaluate a model on the images, and keep what it finds in those that the page shows."""
    scores = evaluate(model, images, progress=progress)
    assert isinstance(scores, InstanceScores)
    shown = {}
    for sample in _named(images, [*SHOWN, *COMPARED]).values():
        shown[sample.name] = as_instances(model.predict(sample.image)).label_map()
    return Found(scores=scores, label_maps=shown)


def train_on_example(output: Path, settings: NucleiSettings, seed: int, progress: ProgressCallback) -> Model:
    """Train Mask R-CNN on the example data set, from ImageNet weights of the backbone, into `output`/nuclei.

    Raises:
        UserError: training diverged.
        KeyboardInterrupt: no file is left incomplete.
    """
    images, folder = open_instance_splits(example_path())[0], RunFolder(output / NAME)
    torch.manual_seed(seed)  # the weights of the new layers
    net = build(
        "mask_rcnn",
        backbone="efficientnet_lite0",
        num_classes=len(images.classes),
        pretrained=True,
        min_side=settings.min_side,
        max_detections=MAX_DETECTIONS,
    )
    net.classes = images.classes
    net.settings = replace(net.settings, batch_size=settings.regions)
    net.rpn.training_limits = PROPOSALS
    recipe = settings.recipe(len(images))
    provenance = {"data": "nuclei", "weights": "imagenet", "recipe": recipe.model_dump(mode="json"), "seed": seed}
    try:
        fit(
            net,
            images,
            held_out(),
            recipe,
            folder,
            max_side=0,
            dtype=getattr(torch, choose_precision(net).name),
            seed=seed,
            provenance={**provenance, "train_images": len(images)},
            callbacks=[_Progress(progress)],
        )
    finally:
        (folder.path / "state.pt").unlink(missing_ok=True)  # a demo is not resumed
    return load(folder.last)


class _Progress(Callback):
    """Reports the steps that are done."""

    def __init__(self, progress: ProgressCallback) -> None:
        self.progress = progress

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        self.progress(step, total_steps)


def steps(model: Model, images: Dataset) -> Steps | None:
    """The steps of Mask R-CNN in one image; None if nothing is found there."""
    net, sample = model.module, _named(images, [EXPLAINED])[EXPLAINED]
    assert isinstance(net, MaskRCNN)
    found = as_instances(model.predict(sample.image))
    if not len(found):
        return None
    with torch.inference_mode():
        seen = net.resizing(sample.image, net.preprocessing)
        size = (seen.shape[-2], seen.shape[-1])
        boxes, _ = net.rpn.proposals(net(seen[None]).proposals, [size], net.rpn.inference_limits)
    largest = int(found.areas().argmax())
    return Steps(
        image=_pixels(sample),
        proposals=(boxes[0][:SHOWN_PROPOSALS].cpu() * (sample.image.shape[-1] / size[1])).numpy(),
        boxes=found.boxes,
        label_map=found.label_map(),
        largest=largest,
        mask=found.masks[largest],
        bitmask=found[largest].bitmask,
    )


def shipped_chapter(shipped: Found, images: Dataset, seconds: float) -> Chapter:
    """What the built-in model finds in held-out images, and how well."""
    tiles = []
    for name, sample in _named(images, SHOWN).items():
        found, labelled = shipped.label_maps[name], len(_objects(sample))
        tiles.append(
            tile(
                join(
                    picture(image_picture(_pixels(sample)), f"Microscope image {name}"),
                    picture(objects_picture(_pixels(sample), found), f"The nuclei found in {name}"),
                ),
                f"{_count(found)} found, {labelled} labelled",
                "stacked",
            )
        )
    scores = shipped.scores
    return Chapter(
        anchor="nuclei",
        title="Nuclei in microscope images",
        body=join(
            stressed(
                f"On {scores.images} images that it was not trained on, with {scores.objects:,} nuclei, the model that "
                f"ships with upscore reaches an F1 score of {scores.f1['0.5']:.1%}."
            ),
            figure(
                row(tiles, "four"),
                "Above: held-out images (fluorescence images are shown brighter than they are). Below: the nuclei that "
                "the model finds, each in a colour of its own.",
            ),
            text(
                "*Instance segmentation* gives every object a mask of its own. The network is Mask R-CNN over "
                f"EfficientNet-Lite0. It was trained on {BUILT_IN_IMAGES} images of the 2018 Data Science Bowl for "
                f"{BUILT_IN_MINUTES} minutes on two processor cores. The same model handles fluorescence and stained "
                "tissue.",
            ),
            figure(
                score_table(COLUMNS, {"nuclei": _row(scores)}),
                f"In per cent, on the {scores.images} held-out images of the example data set. {DEFINITIONS} The score "
                "threshold of the model was chosen on 114 held-out images, which include these, so AP and F1 are "
                "slightly optimistic.",
            ),
            terminal(
                [
                    "# use it on your own microscope images",
                    "upscore predict nuclei slides/ --output out",
                ]
            ),
            text(f"Here it took {seconds / scores.images:.1f} seconds per image, scoring included."),
        ),
    )


def training_chapter(
    trained: Found, shipped: Found, images: Dataset, explained: Steps | None, settings: NucleiSettings, seconds: float
) -> Chapter:
    """The training in the demo: the data, the command, what the network finds, and its score beside the other's."""
    train_images = open_instance_splits(example_path())[0]
    rows = []
    for name, sample in _named(images, COMPARED).items():
        pixels, labels = _pixels(sample), _label_map(sample)
        rows.append(
            row(
                [
                    tile(picture(image_picture(pixels), f"Microscope image {name}"), "image"),
                    tile(
                        picture(objects_picture(pixels, labels), f"The labels of {name}"), f"{_count(labels)} labelled"
                    ),
                    *[
                        tile(
                            picture(objects_picture(pixels, found.label_maps[name]), f"{title}: nuclei in {name}"),
                            f"{title}: {_count(found.label_maps[name])}",
                        )
                        for title, found in (("trained here", trained), ("shipped", shipped))
                    ],
                ],
                "four",
            )
        )
    table = {
        f"trained here: {len(train_images)} images, {duration(seconds)}": _row(trained.scores),
        f"shipped: {BUILT_IN_IMAGES} images, {BUILT_IN_MINUTES} min": _row(shipped.scores),
    }
    return Chapter(
        anchor="train",
        title=f"Train a model on {len(train_images)} images",
        body=join(
            stressed(
                f"After {duration(seconds)} of training on {len(train_images)} images, Mask R-CNN reaches an F1 score "
                f"of {trained.scores.f1['0.5']:.1%} on the same held-out images."
            ),
            text(
                f"The package contains an example data set: {len(train_images)} images for training and {len(images)} "
                "held-out images, each with a label file that stores the number of a nucleus for every pixel. The "
                "backbone started from ImageNet weights, all other layers from random numbers. The network saw "
                f"{settings.images} random crops. By default `upscore train` uses {MODERN_INSTANCES.images:,} larger "
                "crops, which takes about an hour on two cores."
            ),
            figure(
                row(
                    [
                        tile(
                            join(
                                picture(image_picture(_pixels(sample)), f"Training image {name}"),
                                picture(objects_picture(_pixels(sample), _label_map(sample)), f"The labels of {name}"),
                            ),
                            f"{len(_objects(sample))} nuclei",
                            "stacked",
                        )
                        for name, sample in _named(train_images, LEARNED_FROM).items()
                    ],
                    "six",
                ),
                f"Six of the {len(train_images)} training images, and their labels. Source: 2018 Data Science Bowl, "
                "BBBC038, CC0.",
            ),
            terminal(
                [
                    "# write the example data set to a folder, check it, and train on it",
                    "upscore data example nuclei/",
                    "upscore data check nuclei/",
                    "upscore train nuclei/ --model mask_rcnn --output runs/nuclei",
                    "# scores on the held-out images; masks for new images",
                    "upscore evaluate runs/nuclei nuclei/",
                    "upscore predict runs/nuclei slides/ --output out",
                ]
            ),
            heading("Held-out images"),
            figure(join(*rows), "Images that neither network was trained on. Each nucleus found has its own colour."),
            figure(
                score_table(COLUMNS, table),
                f"In per cent, on {trained.scores.objects:,} nuclei in {trained.scores.images} held-out images. "
                f"{DEFINITIONS} Both networks had their score threshold chosen on held-out images. The held-out images "
                "come from the same experiments as the training images; expect lower scores on other microscopes.",
            ),
            *([] if explained is None else [heading("From proposal to mask"), *_steps(explained)]),
        ),
    )


COLUMNS = ("AP at IoU 0.5", "F1 at IoU 0.5", "mask AP (COCO)")
DEFINITIONS = (
    "A nucleus is found (TP) if a mask overlaps it with an IoU (intersection over union) of at least 0.5. "
    "AP at IoU 0.5 is TP / (TP + FP + FN), as the 2018 Data Science Bowl and StarDist define it; "
    "F1 is 2 TP / (2 TP + FP + FN); COCO's mask AP is the mean over IoU 0.5 to 0.95 of the area under the "
    "precision-recall curve."
)


def _steps(one: Steps) -> list[Html]:
    colors, amber = colors_of(one.label_map), np.tile(AMBER, (len(one.proposals), 1))
    color = colors[min(one.largest, len(colors) - 1)]
    side = len(one.mask)
    tiles = [
        tile(picture(boxes_picture(one.image, one.proposals, amber), "Boxes"), f"{len(one.proposals)} proposals"),
        tile(picture(objects_picture(one.image, one.label_map), "Masks of nuclei"), f"{len(one.boxes)} nuclei"),
        tile(picture(region_picture(one.image, one.boxes[one.largest]), "The largest nucleus"), "one box"),
        tile(picture(mask_picture(one.image, one.mask, color), "Its mask"), f"{side} x {side} mask"),
        tile(picture(object_picture(one.image, one.bitmask, color), "Its pixels"), "its pixels"),
    ]
    return [
        text(
            "The region proposal network scores boxes at every position of the feature maps and proposes those that "
            "may contain an object (Faster R-CNN, section 3.1). *RoIAlign* samples the features inside each proposal "
            "(Mask R-CNN, section 3). One branch predicts the class and corrects the box. A second branch predicts a "
            f"mask of {side} x {side} values, which is resized to the box and thresholded at 0.5."
        ),
        figure(
            row(tiles, "five"),
            f"The {len(one.proposals)} proposals with the highest scores; the nuclei found; the box of the largest "
            "one; its mask; and the mask in the image.",
        ),
    ]


def predict_line(output: Path) -> str:
    """The command that runs the trained model on an image."""
    return f"upscore predict {shlex.quote(str(output / NAME))} image.png --output out"


def _named(images: Dataset, names: Sequence[str]) -> dict[str, Sample]:
    """Samples by name, in the order of the names."""
    samples = {sample.name: sample for sample in (images[index] for index in range(len(images)))}
    return {name: samples[name] for name in names}


def _pixels(sample: Sample) -> np.ndarray:
    return sample.image.permute(1, 2, 0).numpy()


def _objects(sample: Sample) -> ObjectAnnotations:
    assert sample.objects is not None
    return sample.objects


def _label_map(sample: Sample) -> np.ndarray:
    return _objects(sample).id_map[0].numpy()


def _count(label_map: np.ndarray) -> int:
    return len(np.unique(label_map[label_map > 0]))


def _row(scores: InstanceScores) -> tuple[float, ...]:
    return scores.ap_dsb["0.5"], scores.f1["0.5"], scores.AP


def duration(seconds: float) -> str:
    """Seconds as "1 min 40 s", or as "40 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
