"""Touching objects are found, judged and shown; the chapter has its parts, however little was trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import upscore
from tests.report.test_page import read
from upscore.evaluation.metrics import ConfusionMatrix, semantic_scores
from upscore.objects import Objects
from upscore.report import detector, instances
from upscore.report.networks import Settings, Trained, draw_scenes
from upscore.report.object_pictures import object_names
from upscore.report.page import page
from upscore.report.touching import largest, merged, pairs, told_apart
from upscore.results import InstanceResult
from upscore.structures import Sample

TINY = Settings(side=64, train=6, validation=2, test=4, detector_images=8)

SQUARE, STAR = 0, 1
LEFT, RIGHT, OTHER, APART = (4, 4, 12, 12), (12, 4, 20, 12), (4, 12, 12, 20), (24, 24, 30, 30)
"""The first two and the third touch; the last touches nothing."""


class Blocks:
    """Scenes of 32 x 32 pixels with the same four rectangles, of other classes in each."""

    def __init__(self, *labels):
        self.labels, self.classes = labels, ["background", "square", "star"]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        id_map = torch.zeros(32, 32, dtype=torch.int32)
        for number, (x1, y1, x2, y2) in enumerate((LEFT, RIGHT, OTHER, APART), start=1):
            id_map[y1:y2, x1:x2] = number
        labels = torch.tensor(self.labels[index])
        class_map = torch.cat([torch.zeros(1, dtype=torch.int64), labels + 1])[id_map.long()]
        objects = Objects.from_id_map(id_map, labels)
        return Sample(
            name=str(index), image=torch.zeros(3, 32, 32, dtype=torch.uint8), class_map=class_map, objects=objects
        )


def found(*boxes, label=SQUARE):
    """Rectangles as a network would have found them."""
    return InstanceResult(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.8, len(boxes), dtype=np.float32),
        labels=np.full(len(boxes), label),
        masks=[np.ones((28, 28), np.float32)] * len(boxes),
        size=(32, 32),
        classes=["square", "star"],
    )


def test_pairs_are_of_one_class_and_touch():
    scenes = Blocks((SQUARE, SQUARE, STAR, SQUARE), (SQUARE, STAR, STAR, STAR), (SQUARE, SQUARE, SQUARE, STAR))
    touching = pairs(scenes)
    assert [(pair.scene, pair.label, pair.smaller) for pair in touching] == [
        (0, SQUARE, 64),
        (2, SQUARE, 64),
        (2, SQUARE, 64),
    ]
    assert all((pair.masks[0] & pair.masks[1]).sum() == 0 for pair in touching)
    assert torch.equal(touching[0].masks[1], scenes[0].objects.bitmask(1))


def test_shown_are_the_scenes_of_the_largest():
    small, large = (torch.ones(1, side, dtype=torch.bool) for side in (3, 9))
    (pair,) = pairs(Blocks((SQUARE, SQUARE, STAR, STAR)))
    candidates = [
        pair._replace(scene=4, masks=(small, large)),
        pair._replace(scene=5, masks=(large, large)),
        pair._replace(scene=5, masks=(small, large)),
        pair._replace(scene=6, masks=(small, small[:, :2])),
    ]
    assert largest(candidates, 3) == [5, 4, 6]
    assert largest(candidates, 1) == [5]
    assert largest([], 3) == []


def test_a_class_map_merges_what_a_gap_does_not_part():
    scenes = Blocks((SQUARE, SQUARE, STAR, STAR))
    (pair,) = pairs(scenes)
    class_map = scenes[0].class_map.numpy().copy()
    assert merged(pair, class_map)
    class_map[:, 12] = 0
    assert not merged(pair, class_map)
    assert not merged(pair, np.zeros_like(class_map))


def test_told_apart_are_pairs_with_an_object_for_each():
    (pair,) = pairs(Blocks((SQUARE, SQUARE, STAR, STAR)))
    assert told_apart(pair, found(LEFT, APART, RIGHT))
    assert not told_apart(pair, found(LEFT, APART))
    assert not told_apart(pair, found((4, 4, 20, 12)))  # one object over both
    assert not told_apart(pair, found(LEFT, RIGHT, label=STAR))
    assert not told_apart(pair, found())


def test_objects_are_numbered_within_their_class():
    some = replace(found(LEFT, RIGHT, OTHER), labels=np.array([SQUARE, STAR, SQUARE]))
    assert object_names(some, ["square", "star"]) == ["square #1", "star #1", "square #2"]


def test_rounds_go_through_all_scenes(monkeypatch):
    monkeypatch.setattr(detector, "ROUND", 2)
    rounds = detector.Rounds(Blocks(*[(SQUARE, SQUARE, STAR, STAR)] * 5))
    names = []
    for rounds.turn in range(5):
        names += [rounds[index].name for index in range(len(rounds))]
    assert names == list("0123401234")


@pytest.mark.slow
def test_the_chapter_has_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "ROUND", 4)
    splits = draw_scenes(TINY, 1, lambda done, total: None)
    steps = []
    finder = detector.train(splits, TINY, tmp_path, 1, lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    assert finder.scores.images == len(finder.found) == TINY.test
    assert len(detector.parts(finder.records)) == 5
    assert not (tmp_path / "mask_rcnn/state.pt").exists()
    assert upscore.load(tmp_path / "mask_rcnn").predict(np.zeros((50, 70, 3), np.uint8)).size == (50, 70)

    upscore.load(tmp_path / "mask_rcnn/last")  # into the cache, from which a network starts without its trunk
    again = detector.train(splits, TINY, tmp_path / "again", 1, lambda done, total: None)
    image = splits.test[0].image
    assert torch.equal(again.proposals(image), finder.proposals(image))

    truth = [splits.test[index].class_map.numpy() for index in range(TINY.test)]
    counts = ConfusionMatrix(len(splits.test.classes))
    counts.update(truth[0], truth[0])
    scores = semantic_scores(counts.counts, splits.test.classes)
    fcn = Trained(name="fcn8s", records=[], losses=[], class_maps=truth, counts=counts.counts[None], scores=scores)
    chapter = instances.chapter(finder, fcn, splits.test, TINY)
    reader = read(page("title", "lead", [], [chapter], "colophon"))
    text = "".join(reader.text)
    assert chapter.body.count("<polyline") == 5
    shown = max(1, len(largest(pairs(splits.test), instances.SHOWN)))
    assert sum("row three" in part for part in chapter.body.split("<div")) == shown
    assert len(reader.images) - 3 * shown in (2, 5)
    for part in ("mask AP", "AP50", "box AP", "F1", "proposals", f"{finder.scores.objects} objects in 4 test"):
        assert part in text
