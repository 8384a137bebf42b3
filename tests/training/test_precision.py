"""Precision "auto" selects the format that is measured to be faster; a resumed run keeps it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import upscore
from tests.tiny import BACKBONE, QUICK, same, scenes, tiny_net
from upscore import timing
from upscore.models.build import build
from upscore.training import precision
from upscore.training.callbacks import Callback
from upscore.training.precision import choose_precision

SMALL: dict[str, Any] = {"channels": 16, "box_features": 16, "min_side": 64, "max_side": 128, "smallest_anchor": 8}


class Log(Callback):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_log(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """One-element list with the format that measurements report as faster; tests may change it."""
    names = ["bfloat16"]

    def measure(ways: dict[str, Any], rounds: int) -> dict[str, float]:
        for way in ways.values():
            way()
        return {name: 1.0 if name == names[0] else 2.0 for name in ways}

    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "_measured", {})
    monkeypatch.setattr(timing, "_measure", measure)
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: True)
    return names


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fcn8s", {}),
        ("fcn8s", {"depth": "late"}),
        ("fcn32s", {"geometric_classes": 3}),
        ("mask_rcnn", SMALL),
    ],
)
def test_measuring_does_not_change_the_network(name: str, options: dict[str, Any], faster: list[str]) -> None:
    net = build(name, backbone=BACKBONE, num_classes=5, **options)
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    choice = choose_precision(net)
    assert choice.name == "bfloat16"
    assert "2 times as fast as float32" in choice.reason
    assert same(dict(net.state_dict()), dict(before))
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in net.parameters())
    faster[0] = "float32"
    assert choose_precision(net) == choice  # the measurement is cached
    assert choose_precision(net, head_only=True).name == "float32"


def test_precision_without_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: False)
    monkeypatch.setattr(precision, "fastest", None)
    net = tiny_net()
    assert choose_precision(net).name == "float32"
    assert choose_precision(net, "bfloat16").name == "bfloat16"


def test_a_resumed_run_keeps_its_precision(faster: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"backbone": BACKBONE, "weights": "none", "epochs": 1, "changes": QUICK, "workers": 0}
    options["validation"] = scenes(2, seed=1)
    log = Log()
    upscore.train(scenes(4), tmp_path / "run", callbacks=[log], **options)
    assert log.messages[0].startswith("precision: bfloat16 (measured 2 times as fast")
    assert json.loads((tmp_path / "run/run.json").read_text())["chosen_precision"] == "bfloat16"
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: False)
    log = Log()
    upscore.train(scenes(4), tmp_path / "run", resume=True, callbacks=[log], **options)
    assert log.messages[0].startswith("precision: bfloat16 (")
    assert "measured" not in log.messages[0]
