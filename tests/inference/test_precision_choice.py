"""The choice of `precision="auto"`: one measurement per machine and network if there are bfloat16 instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import upscore
from tests.tiny import tiny_net
from upscore import timing
from upscore.inference import Model
from upscore.inference.engines import openvino, session


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the measured precisions; bfloat16 appears to be twice as fast. The cache is empty."""
    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "_measured", {})
    names: list[str] = []

    def measure(calls: dict[str, Any], _: int) -> dict[str, float]:
        for name, call in calls.items():
            call()
            names.append(name)
        return {"float32": 2.0, "bfloat16": 1.0}

    monkeypatch.setattr(timing, "_measure", measure)
    return names


def test_nothing_is_measured_without_bfloat16_instructions(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "has_bfloat16_instructions", lambda: False)
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: False)
    for engine in ("torch", "openvino"):
        choice = Model(tiny_net(), engine, device="cpu").precision_choice
        assert choice.name == "float32"
        assert "no bfloat16" in choice.reason
    assert measured == []


@pytest.mark.parametrize("task", ["semantic", "instances"])
def test_precisions_are_measured_once(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, trained: Path, task: str
) -> None:
    monkeypatch.setattr(session, "has_bfloat16_instructions", lambda: True)
    source = trained if task == "semantic" else "nuclei"
    for _ in range(2):
        model = upscore.load(source, engine="torch", device="cpu")
        assert (model.precision, model.session.engine.precision) == ("bfloat16", "bfloat16")
        assert "2 times" in model.precision_choice.reason
        monkeypatch.setattr(timing, "_measured", {})  # as in a new process
    assert measured == ["float32", "bfloat16"]
    assert upscore.load(source, engine="torch", precision="float32").precision == "float32"


def test_modules_with_different_layers_are_measured_separately(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "has_bfloat16_instructions", lambda: True)
    for net in (tiny_net(), tiny_net("fcn32s"), tiny_net()):
        assert Model(net, "torch", device="cpu").predict(torch.zeros(3, 32, 32, dtype=torch.uint8)) is not None
    assert measured == ["float32", "bfloat16"] * 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "tpu"}, "tpu"),
        ({"device": "mps"}, "mps"),
        ({"engine": "fast"}, "fast"),
        ({"precision": "fp16"}, "fp16"),
        ({"engine": "onnxruntime", "precision": "bfloat16"}, "onnxruntime"),
        ({"engine": "openvino", "precision": "int8"}, "int8"),
    ],
)
def test_unknown_options(options: dict[str, Any], named: str) -> None:
    with pytest.raises(upscore.errors.UserError, match=named):
        Model(tiny_net(), **options)
    with pytest.raises(upscore.errors.UserError, match="Linear"):
        Model(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
