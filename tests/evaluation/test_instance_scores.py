"""Scores of instance segmentation, compared with pycocotools and with values calculated by hand."""

import contextlib
import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from upscore.annotations import ObjectAnnotations
from upscore.errors import UserError
from upscore.evaluation.average_precision import coco_annotations
from upscore.evaluation.instances import InstanceEvaluator
from upscore.results import InstanceResult, rle

COCO_MINI = Path(__file__).parents[3] / "shared/data/coco_mini"


@dataclass
class BitmaskInstances:
    """Replaces `InstanceResult` with bitmasks."""

    masks: np.ndarray  # (N, H, W) bool, in descending order of the scores
    scores: np.ndarray
    labels: np.ndarray
    classes = ()

    def __post_init__(self):
        self.size = self.masks.shape[1:]
        boxes = [coco_mask.toBbox(rle) for rle in self.rle()]
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        self.boxes = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])

    def rle(self):
        return [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in self.masks]

    def to_coco(self, category_ids):
        boxes = self.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        rles = self.rle()
        columns = zip(rles, boxes.tolist(), self.scores.tolist(), self.labels.tolist(), rle.areas(rles), strict=True)
        return [
            {"category_id": label, "bbox": box, "area": area, "score": score, "segmentation": encoded}
            for encoded, box, score, label, area in columns
        ]

    def mask_nms(self):
        return self

    def label_map(self):
        label_map = np.zeros(self.size, np.int32)
        for position in reversed(range(len(self.masks))):
            label_map[self.masks[position]] = position + 1
        return label_map


def predicted(masks, scores, labels=None, size=(20, 20)):
    masks = np.array(masks, bool).reshape(-1, *size)
    labels = [0] * len(masks) if labels is None else labels
    return BitmaskInstances(masks, np.array(scores, np.float32), np.array(labels, np.int64))


def rectangle(x1, y1, x2, y2, size=(20, 20)):
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def objects(masks, labels=None, crowd=None, size=(20, 20)):
    masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *size))
    labels = None if labels is None else torch.tensor(labels, dtype=torch.int64)
    return ObjectAnnotations.from_masks(masks, labels, None if crowd is None else torch.tensor(crowd, dtype=torch.bool))


def evaluate(*images, classes=("thing",), score_threshold=None, **options):
    evaluator = InstanceEvaluator(list(classes), **options)
    for instances, labelled in images:
        evaluator.update(instances, labelled)
    return evaluator.scores(score_threshold)


def jittered(masks, labels, classes, generator):
    """Return detections near the labelled masks: some missing, duplicated or of another class, with equal scores."""
    moved, classes_of_moved = [], []
    for mask, label in zip(masks, labels, strict=True):
        for _ in range(generator.integers(0, 3)):
            near = np.roll(mask, generator.integers(-2, 3, 2), (0, 1))
            if generator.random() < 0.5:
                near = ndimage.binary_dilation(near, iterations=int(generator.integers(1, 4)))
            moved.append(near)
            classes_of_moved.append(label if generator.random() < 0.8 else generator.integers(classes))
    scores = np.sort(generator.integers(1, 40, len(moved)) / 40)[::-1].copy()
    order = generator.permutation(len(moved))
    return [moved[i] for i in order], scores, [int(classes_of_moved[i]) for i in order]


def reference(truth, images, overlap):
    """Return pycocotools' twelve scores of `images`, predictions by image id, on the COCO data set `truth`."""
    detections = [
        {"image_id": image_id, "category_id": int(label), "score": float(score)}
        | (
            {"segmentation": rle}
            if overlap == "segm"
            else {"bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]}
        )
        for image_id, image in images.items()
        for rle, (x1, y1, x2, y2), score, label in zip(
            image.rle(), image.boxes.astype(np.float64), image.scores, image.labels, strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        engine = COCOeval(coco, coco.loadRes(detections), overlap)
        engine.evaluate()
        engine.accumulate()
        engine.summarize()
    return engine.stats


def assert_same(scores, masks, boxes):
    ours = [scores.AP, scores.AP50, scores.AP75, scores.APs, scores.APm, scores.APl]
    ours += [scores.AR1, scores.AR10, scores.AR_max, scores.box_AP, scores.box_AP50, scores.box_AP75]
    theirs = [*masks[:9], *boxes[:3]]
    assert ours == pytest.approx([math.nan if value == -1 else value for value in theirs], abs=1e-6, nan_ok=True)


@pytest.mark.slow
@pytest.mark.skipif(not COCO_MINI.exists(), reason="shared/data/coco_mini is missing")
def test_coco_scores_equal_pycocotools(capsys):
    truth = json.loads((COCO_MINI / "instances_val2017.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(COCO_MINI / "instances_val2017.json")
    numbers = {category["id"]: index for index, category in enumerate(truth["categories"])}
    generator = np.random.default_rng(0)
    evaluator = InstanceEvaluator([category["name"] for category in truth["categories"]])
    predictions = {}
    for image in coco.getImgIds():
        annotations = [a for a in coco.loadAnns(coco.getAnnIds([image])) if coco.annToMask(a).any()]
        masks = np.array([coco.annToMask(a) for a in annotations], bool)
        labels = [numbers[a["category_id"]] for a in annotations]
        size = coco.imgs[image]["height"], coco.imgs[image]["width"]
        made = objects(masks, labels, [bool(a["iscrowd"]) for a in annotations], size)
        boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        predictions[image] = predicted(*jittered(masks, labels, 80, generator), size)
        areas = torch.tensor([a["area"] for a in annotations])
        evaluator.update(predictions[image], replace(made, boxes=boxes, areas=areas))
    for part in ("annotations", "categories"):
        for entry in truth[part]:
            key = "category_id" if part == "annotations" else "id"
            entry[key] = numbers[entry[key]]
    capsys.readouterr()
    scores = evaluator.scores()
    assert capsys.readouterr().out == ""
    assert_same(scores, *(reference(truth, predictions, overlap) for overlap in ("segm", "bbox")))
    assert 0.2 < scores.AP < 0.9
    assert (scores.images, scores.crowds) == (66, sum(a["iscrowd"] for a in truth["annotations"]))
    assert sum(entry.objects for entry in scores.per_class.values()) == scores.objects


@pytest.mark.parametrize("seed", range(6))
def test_random_scores_equal_pycocotools(seed):
    """The data has crowds, objects of all areas, classes and images without objects, and images without predictions."""
    generator = np.random.default_rng(seed)
    size, evaluator, predictions, annotations = (130, 150), InstanceEvaluator(["a", "b", "c", "d"]), {}, []
    for image in range(8):
        masks, labels, crowd = [], [], []
        for _ in range(0 if image == 3 else generator.integers(1, 9)):
            x, y = generator.integers(0, (140, 120))
            side = generator.choice([4, 20, 40, 110])
            masks.append(rectangle(x, y, x + side, y + side, size))
            labels.append(int(generator.integers(3)))  # never d
            crowd.append(bool(generator.random() < 0.2))
        made = objects(masks, labels, crowd, size)
        made.areas = made.areas * torch.from_numpy(generator.uniform(0.6, 1.1, len(made))).float()
        near = jittered([*masks, rectangle(5, 5, 9, 30, size)], [*labels, 3], 4, generator)
        predictions[image + 1] = predicted([], [], size=size) if image == 5 else predicted(*near, size)
        evaluator.update(predictions[image + 1], made)
        for k in range(len(made)):
            x1, y1, x2, y2 = made.boxes[k].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image + 1,
                    "category_id": int(made.labels[k]),
                    "iscrowd": int(made.crowd[k]),
                    "area": float(made.areas[k]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": coco_mask.encode(np.asfortranarray(made.bitmask(k).numpy().astype(np.uint8))),
                }
            )
    images = [{"id": image, "height": size[0], "width": size[1]} for image in predictions]
    truth = {"images": images, "categories": [{"id": k} for k in range(4)], "annotations": annotations}
    scores = evaluator.scores()
    assert_same(scores, *(reference(truth, predictions, overlap) for overlap in ("segm", "bbox")))
    assert math.isnan(scores.per_class["d"].AP)
    assert scores.to_json()["per_class"]["d"] == {"objects": 0, "AP": None, "AP50": None, "box_AP": None}


def test_run_lengths_equal_those_of_bitmasks():
    generator = np.random.default_rng(0)
    masks = [ndimage.binary_dilation(generator.random((23, 31)) < 0.02, iterations=2) for _ in range(9)]
    whole, corner = np.ones((23, 31), bool), np.zeros((23, 31), bool)
    corner[0, 0] = corner[-1, -1] = True
    made = objects([*masks, whole, corner], size=(23, 31))
    assert len(made.id_map) > 1
    expected = [
        coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in [*masks, whole, corner]
    ]
    counts = [annotation["segmentation"]["counts"].encode() for annotation in coco_annotations(made).annotations]
    assert counts == expected
    some = coco_annotations(made[torch.tensor([10, 2])]).annotations
    assert [annotation["segmentation"]["counts"].encode() for annotation in some] == [expected[10], expected[2]]


def test_max_detections_limits_objects_per_image_and_class():
    squares = [rectangle(5 * k, 0, 5 * k + 4, 4) for k in range(4)]
    image = predicted(squares, [0.9, 0.8, 0.7, 0.6]), objects(squares)
    assert evaluate(image, max_detections=2).AR_max == pytest.approx(0.5)
    scores = evaluate(image, max_detections=4)
    assert (scores.AR1, scores.AR10, scores.AR_max) == pytest.approx((0.25, 1, 1))
    assert scores.ap_dsb["0.9"] == scores.f1["0.9"] == 1


def test_more_objects_than_255():
    size = 60, 45
    dots = [rectangle(3 * x, 3 * y, 3 * x + 2, 3 * y + 2, size) for x in range(15) for y in range(20)]
    image = predicted(dots, np.linspace(1, 0.5, 300), size=size), objects(dots, size=size)
    scores = evaluate(image, max_detections=500)
    assert scores.AR_max == pytest.approx(1)
    assert scores.detections == scores.objects == 300


def test_instance_results_match_their_own_annotations():
    boxes = np.array([[2.0, 3, 12, 15], [10, 10, 30, 28], [0, 0, 6, 6]], np.float32)
    masks = np.random.default_rng(0).random((3, 28, 28), np.float32) + 0.4
    instances = InstanceResult(
        boxes=boxes,
        scores=np.array([0.9, 0.8, 0.3], np.float32),
        labels=np.array([1, 0, 1]),
        masks=list(masks),
        size=(32, 40),
        classes=["a", "b"],
    )
    truth = ObjectAnnotations.from_masks(torch.from_numpy(instances.bitmasks()), torch.from_numpy(instances.labels))
    truth.boxes = torch.from_numpy(boxes)
    evaluator = InstanceEvaluator(["a", "b"])
    evaluator.update(instances, truth)
    assert pytest.approx(1) == evaluator.scores().AP
    assert evaluator.scores().box_AP == pytest.approx(1)
    assert set(evaluator.scores(0.5).ap_dsb.values()) == {2 / 3}
    assert set(evaluator.scores(0.5).f1.values()) == {4 / 5}
    nothing = instances[:0]
    evaluator.update(nothing, truth)
    assert evaluator.scores(0.0).ap_dsb["0.5"] == 0.5


def test_scores_without_objects_are_nan():
    for images in ([], [(predicted([], []), objects([]))]):
        scores = evaluate(*images)
        assert math.isnan(scores.AP)
        assert math.isnan(scores.ap_dsb["0.5"])
        report = json.loads(json.dumps(scores.to_json(), allow_nan=False))
        assert (
            report["AP"] is report["ap_dsb"]["0.9"] is report["precision"]["mean"][100] is report["f1"]["0.5"] is None
        )
        assert report["per_class"] == {"thing": {"objects": 0, "AP": None, "AP50": None, "box_AP": None}}


def test_duplicate_class_names_are_refused():
    with pytest.raises(UserError, match="'cell'"):
        InstanceEvaluator(["cell", "cell"])
