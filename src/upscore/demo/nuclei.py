"""Chapters about nuclei in microscope images: the built-in model, and a model that the demo trains."""

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
    figure,
    heading,
    image_picture,
    join,
    label_colors,
    mask_picture,
    object_picture,
    objects_picture,
    picture,
    region_picture,
    row,
    score_table,
    summary,
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

BUILT_IN, NAME = "nuclei", "nuclei"
"""Name of the built-in model, and folder of the trained one in the output of the demo."""

MAX_DETECTIONS = 150
"""Largest number of detections, 1.5 times the largest number of nuclei in an image."""

PROPOSALS = Limits(before_nms=600, after_nms=300)
"""Numbers of proposals per crop in training."""

BUILT_IN_IMAGES, BUILT_IN_MINUTES = 456, 60
"""Number of training images of the built-in model, and its training time on two cores (docs/results/nuclei.md)."""

SHOWN = ("fluorescence_03", "fluorescence_07", "stained_02", "stained_05")

COMPARED = ("fluorescence_01", "fluorescence_10", "stained_01", "stained_03")

STEPS_IMAGE = "fluorescence_10"

TRAINING_IMAGES = (
    "fluorescence_04",
    "fluorescence_09",
    "fluorescence_18",
    "stained_02",
    "stained_06",
    "stained_10",
)
"""Names of images on the page: validation images of three figures, and training images."""

SHOWN_PROPOSALS = 40

AMBER = (230, 126, 0)
"""Colour of proposals."""

COLUMNS = ("AP at IoU 0.5", "F1 at IoU 0.5", "mask AP (COCO)")

DEFINITIONS = (
    "A nucleus is a true positive (TP) if a mask overlaps it with an IoU (intersection over union) of at least 0.5. "
    "AP at IoU 0.5 is TP / (TP + FP + FN), as the 2018 Data Science Bowl and StarDist define it; "
    "F1 is 2 TP / (2 TP + FP + FN); COCO's mask AP is the mean over IoU 0.5 to 0.95 of the area under the "
    "precision-recall curve."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleiSettings:
    """Settings of training on the example data set: shorter than the default recipe, with fewer regions."""

    images: int = 260
    """Number of random crops."""
    min_side: int = 320
    """Shorter side in pixels to which images are enlarged."""
    crop: int = 192
    """Side of crops in pixels."""
    regions: int = 64
    """Number of regions per crop that the heads are trained on; 512 in the paper's networks with a feature pyramid."""

    def recipe(self, length: int) -> Recipe:
        """Return the recipe for `length` training images, with one validation at the end."""
        changes = {
            "images": self.images,
            "crop": self.crop,
            "batch_size": 2,
            "learning_rate": 7e-4,
            "ema": 0.98,
            "validate_every": math.ceil(self.images / length),
        }
        return MODERN_INSTANCES.model_copy(update=changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Scores and predictions of a model on the validation images."""

    scores: InstanceScores
    label_maps: dict[str, np.ndarray]
    """Label map (H, W) by name of the image, 0 for the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSteps:
    """Intermediate results of Mask R-CNN for one image."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    proposals: np.ndarray
    """(P, 4) boxes in pixels of the image, in descending order of objectness."""
    boxes: np.ndarray
    """(N, 4) boxes of the objects."""
    label_map: np.ndarray
    """(H, W) label map of the objects."""
    largest: int
    """Index of the largest object, whose mask is shown."""
    mask: np.ndarray
    """(m, m) mask probabilities of the largest object."""
    bitmask: np.ndarray
    """(H, W) bool, mask of the largest object."""


def validation_images() -> Dataset:
    """Return the 16 validation images of the example data set, which neither model was trained on."""
    return open_instance_splits(example_path())[1]


def score(model: Model, images: Dataset, progress: ProgressCallback) -> Predictions:
    """Evaluate a model on the images, and keep its predictions for the images on the page."""
    scores = evaluate(model, images, progress=progress)
    assert isinstance(scores, InstanceScores)
    shown = {}
    for sample in _named(images, [*SHOWN, *COMPARED]).values():
        shown[sample.name] = as_instances(model.predict(sample.image)).label_map()
    return Predictions(scores=scores, label_maps=shown)


def train_on_example(output: Path, settings: NucleiSettings, seed: int, progress: ProgressCallback) -> Model:
    """Train Mask R-CNN with an ImageNet backbone on the example data set, into `output`/nuclei.

    Raises:
        UserError: training diverged.
        KeyboardInterrupt: training was interrupted; no file is incomplete.
    """
    images, folder = open_instance_splits(example_path())[0], RunFolder(output / NAME)
    torch.manual_seed(seed)  # for the layers that are not pretrained
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
            validation_images(),
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


def mask_steps(model: Model, images: Dataset) -> MaskSteps | None:
    """Return the intermediate results of Mask R-CNN for one image; None if it has no objects."""
    net, sample = model.module, _named(images, [STEPS_IMAGE])[STEPS_IMAGE]
    assert isinstance(net, MaskRCNN)
    found = as_instances(model.predict(sample.image))
    if not len(found):
        return None
    with torch.inference_mode():
        inputs = net.resizing(sample.image, net.preprocessing)
        size = (inputs.shape[-2], inputs.shape[-1])
        boxes, _ = net.rpn.proposals(net(inputs[None]).proposals, [size], net.rpn.inference_limits)
    largest = int(found.areas().argmax())
    return MaskSteps(
        image=_pixels(sample),
        proposals=(boxes[0][:SHOWN_PROPOSALS].cpu() * (sample.image.shape[-1] / size[1])).numpy(),
        boxes=found.boxes,
        label_map=found.label_map(),
        largest=largest,
        mask=found.masks[largest],
        bitmask=found[largest].bitmask,
    )


def built_in_chapter(built_in: Predictions, images: Dataset, seconds: float) -> Chapter:
    """Return the chapter about the built-in model: predictions and scores."""
    tiles = []
    for name, sample in _named(images, SHOWN).items():
        predicted, labelled = built_in.label_maps[name], len(_objects(sample))
        tiles.append(
            tile(
                join(
                    picture(image_picture(_pixels(sample)), f"Microscope image {name}"),
                    picture(objects_picture(_pixels(sample), predicted), f"The nuclei predicted in {name}"),
                ),
                f"{_count(predicted)} predicted, {labelled} labelled",
                "stacked",
            )
        )
    scores = built_in.scores
    return Chapter(
        anchor="nuclei",
        title="Nuclei in microscope images",
        body=join(
            summary(
                f"On {scores.images} validation images with {scores.objects:,} nuclei, the built-in model reaches an "
                f"F1 score of {scores.f1['0.5']:.1%}."
            ),
            figure(
                row(tiles, "four"),
                "Above: validation images (fluorescence images are brightened). Below: the predicted nuclei in "
                "different colours.",
            ),
            text(
                "*Instance segmentation* predicts a mask for every object. The network is Mask R-CNN with the backbone "
                f"EfficientNet-Lite0. It was trained on {BUILT_IN_IMAGES} images of the 2018 Data Science Bowl for "
                f"{BUILT_IN_MINUTES} minutes on two processor cores. The same model handles fluorescence and stained "
                "tissue.",
            ),
            figure(
                score_table(COLUMNS, {"nuclei": _row(scores)}),
                f"In per cent, on the {scores.images} validation images of the example data set. {DEFINITIONS} The "
                "score threshold of the model was chosen on 114 validation images, which include these, so AP and F1 "
                "are slightly optimistic.",
            ),
            terminal(
                [
                    "# use it on your own microscope images",
                    "upscore predict nuclei slides/ --output out",
                ]
            ),
            text(f"On this computer it took {seconds / scores.images:.1f} seconds per image, including evaluation."),
        ),
    )


def training_chapter(
    trained: Predictions,
    built_in: Predictions,
    images: Dataset,
    explained: MaskSteps | None,
    settings: NucleiSettings,
    seconds: float,
) -> Chapter:
    """Return the chapter about training: data, commands, predictions and scores beside those of the built-in model."""
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
                            picture(objects_picture(pixels, model.label_maps[name]), f"{title}: nuclei in {name}"),
                            f"{title}: {_count(model.label_maps[name])}",
                        )
                        for title, model in (("trained here", trained), ("built-in", built_in))
                    ],
                ],
                "four",
            )
        )
    table = {
        f"trained here: {len(train_images)} images, {duration(seconds)}": _row(trained.scores),
        f"built-in: {BUILT_IN_IMAGES} images, {BUILT_IN_MINUTES} min": _row(built_in.scores),
    }
    return Chapter(
        anchor="train",
        title=f"Train a model on {len(train_images)} images",
        body=join(
            summary(
                f"After {duration(seconds)} of training on {len(train_images)} images, Mask R-CNN reaches an F1 score "
                f"of {trained.scores.f1['0.5']:.1%} on the same validation images."
            ),
            text(
                f"The package contains an example data set: {len(train_images)} training images and {len(images)} "
                "validation images, each with a label file that stores the number of a nucleus for every pixel. The "
                "backbone had ImageNet weights, all other layers random weights. The network was trained on "
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
                        for name, sample in _named(train_images, TRAINING_IMAGES).items()
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
                    "# scores on the validation images; masks for new images",
                    "upscore evaluate runs/nuclei nuclei/",
                    "upscore predict runs/nuclei slides/ --output out",
                ]
            ),
            heading("Validation images"),
            figure(
                join(*rows), "Images that neither network was trained on, with predicted nuclei in different colours."
            ),
            figure(
                score_table(COLUMNS, table),
                f"In per cent, on {trained.scores.objects:,} nuclei in {trained.scores.images} validation images. "
                f"{DEFINITIONS} The score thresholds of both networks were chosen on validation images. The validation "
                "images come from the same experiments as the training images; expect lower scores on other "
                "microscopes.",
            ),
            *([] if explained is None else [heading("From proposal to mask"), *_mask_steps_figure(explained)]),
        ),
    )


def predict_line(output: Path) -> str:
    """Return the command that runs the trained model on an image."""
    return f"upscore predict {shlex.quote(str(output / NAME))} image.png --output out"


def duration(seconds: float) -> str:
    """Format seconds as "1 min 40 s" or "40 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class _Progress(Callback):
    """Reports the progress of training."""

    def __init__(self, progress: ProgressCallback) -> None:
        self.progress = progress

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        self.progress(step, total_steps)


def _mask_steps_figure(steps: MaskSteps) -> list[Html]:
    colors, amber = label_colors(steps.label_map), np.tile(AMBER, (len(steps.proposals), 1))
    color = colors[min(steps.largest, len(colors) - 1)]
    side = len(steps.mask)
    tiles = [
        tile(picture(boxes_picture(steps.image, steps.proposals, amber), "Boxes"), f"{len(steps.proposals)} proposals"),
        tile(picture(objects_picture(steps.image, steps.label_map), "Masks of nuclei"), f"{len(steps.boxes)} nuclei"),
        tile(picture(region_picture(steps.image, steps.boxes[steps.largest]), "The largest nucleus"), "one box"),
        tile(picture(mask_picture(steps.image, steps.mask, color), "Its mask"), f"{side} x {side} mask"),
        tile(picture(object_picture(steps.image, steps.bitmask, color), "Its pixels"), "its pixels"),
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
            f"The {len(steps.proposals)} proposals with the highest scores; the predicted nuclei; the box of the "
            "largest one; its mask; and the mask in the image.",
        ),
    ]


def _named(images: Dataset, names: Sequence[str]) -> dict[str, Sample]:
    """Return samples by name, in the order of the names."""
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
