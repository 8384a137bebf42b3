"""`precision="auto"`: measured once per machine and network where the processor has bfloat16 instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import upscore
from tests.tiny import tiny_net
from upscore import timing as autotune
from upscore.inference import Model
from upscore.inference.engines import openvino
from upscore.inference.engines import session as select


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The ways that were measured; bfloat16 is twice as fast. A cache of the test's own."""
    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(autotune, "_measured", {})
    asked: list[str] = []

    def measure(ways: dict[str, Any], _: int) -> dict[str, float]:
        for name, way in ways.items():
            way()
            asked.append(name)
        return {"float32": 2.0, "bfloat16": 1.0}

    monkeypatch.setattr(autotune, "_measure", measure)
    return asked


def test_without_instructions_nothing_is_measured(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_bfloat16_instructions", lambda: False)
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: False)
    for engine in ("torch", "openvino"):
        choice = Model(tiny_net(), engine, device="cpu").precision_choice
        assert choice.name == "float32"
        assert "no bfloat16" in choice.reason
    assert measured == []


@pytest.mark.parametrize("task", ["semantic", "instances"])
def test_with_instructions_it_is_measured_once(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, trained: Path, task: str
) -> None:
    monkeypatch.setattr(select, "has_bfloat16_instructions", lambda: True)
    source = trained if task == "semantic" else "nuclei"
    for _ in range(2):
        model = upscore.load(source, engine="torch", device="cpu")
        assert (model.precision, model.session.engine.precision) == ("bfloat16", "bfloat16")
        assert "2 times as fast as float32" in model.precision_choice.reason
        monkeypatch.setattr(autotune, "_measured", {})  # as in another process
    assert measured == ["float32", "bfloat16"]
    assert upscore.load(source, engine="torch", precision="float32").precision == "float32"


def test_a_module_that_was_given_is_measured_by_its_layers(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "has_bfloat16_instructions", lambda: True)
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
def test_what_there_is_not(options: dict[str, Any], named: str) -> None:
    with pytest.raises(upscore.errors.UserError, match=named):
        Model(tiny_net(), **options)
    with pytest.raises(upscore.errors.UserError, match="Linear"):
        Model(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
