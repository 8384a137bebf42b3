"""Damaged and malicious model folders are refused with one sentence."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import upscore as package
from tests.cli.command import upscore
from tests.tiny import scenes, tiny_net
from upscore.checkpoints import load_model, save_model
from upscore.checkpoints.model_folder import BUILT_IN
from upscore.errors import UserError

FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
NUMBERS = [0, -1, 1, 10**9, 2**63, -(2**63), 10**400, 0.5, math.nan, math.inf, -math.inf, 1e308]
TEXTS = ["", "0", "\x1b[31mred", "x" * 2000, "timm/vit_giant_patch14_clip_224", "hf-hub:a/b", "../.."]
JUNK = st.one_of(
    st.sampled_from([None, True, *NUMBERS, *TEXTS, [], {}, [[]], [0] * 300]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.floats(), max_size=4),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", tiny_net(), classes=scenes().classes)
    return tmp_path / "model"


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUILT_IN / "nuclei", tmp_path / "detector"))


def field_paths(config: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all fields except those of the provenance."""
    for key, value in config.items():
        if key not in ("training", "scores"):
            yield (*path, key)
            if isinstance(value, dict):
                yield from field_paths(value, (*path, key))


def mutate(folder: Path, content: str, path: tuple[str, ...], value: Any, action: str) -> None:
    config = part = json.loads(content)
    for key in path[:-1]:
        part = part[key]
    if action == "replace":
        part[path[-1]] = value
    elif action == "delete":
        del part[path[-1]]
    else:
        part["more"] = value
    (folder / "model.json").write_text(json.dumps(config))


def load_or_refuse(folder: Path) -> None:
    try:
        load_model(folder)
    except UserError as error:
        message = str(error)
        assert "\n" not in message
        assert message.isprintable()
        assert len(message) < 1000
        assert str(folder) in message


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["model", "detector"])
@FUZZ
@given(data=st.data())
def test_changed_configurations_load_or_are_refused(fixture: str, data: st.DataObject, request: Any) -> None:
    folder: Path = request.getfixturevalue(fixture)
    original = folder.parent / f"{fixture}.json"
    if not original.exists():
        shutil.copy(folder / "model.json", original)
    content = original.read_text()
    path = data.draw(st.sampled_from(list(field_paths(json.loads(content)))))
    mutate(folder, content, path, data.draw(JUNK), data.draw(st.sampled_from(["replace", "replace", "delete", "add"])))
    load_or_refuse(folder)


@FUZZ
@given(position=st.floats(0, 1), new=st.binary(max_size=12), cut=st.integers(0, 40))
def test_damaged_configurations_load_or_are_refused(model: Path, position: float, new: bytes, cut: int) -> None:
    original = model.parent / "original.json"
    if not original.exists():
        shutil.copy(model / "model.json", original)
    content = original.read_bytes()
    start = int(position * len(content))
    (model / "model.json").write_bytes(content[:start] + new + content[start + cut :])
    load_or_refuse(model)


@pytest.mark.slow
@FUZZ
@given(start=st.integers(0, 2000), new=st.binary(min_size=1, max_size=12))
def test_damaged_headers_of_weights_load_or_are_refused(model: Path, start: int, new: bytes) -> None:
    original = model.parent / "original.safetensors"
    if not original.exists():
        shutil.copy(model / "model.safetensors", original)
    content = original.read_bytes()
    (model / "model.safetensors").write_bytes(content[:start] + new + content[start + len(new) :])
    load_or_refuse(model)


@pytest.mark.parametrize(
    ("fixture", "path", "value"),
    [
        ("model", ("preprocessing", "std"), [1.0, 0.0, 1.0]),
        ("model", ("preprocessing", "std"), [1.0, 1e-7, 1.0]),
        ("model", ("preprocessing", "std"), [1.0, math.nan, 1.0]),
        ("model", ("preprocessing", "mean"), ["1", 2, 3]),
        ("model", ("max_side",), 2**63),
        ("model", ("max_side",), "1024"),
        ("model", ("classes",), []),
        ("model", ("architecture", "grouped"), 1),
        ("model", ("architecture", "num_classes"), 8.0),
        ("model", ("architecture", "name"), ["fcn8s"]),
        ("model", ("architecture",), []),
        ("model", ("depth_preprocessing",), {"mean": [], "std": []}),
        ("detector", ("architecture", "channels"), -1),
        ("detector", ("architecture", "channels"), 10**9),
        ("detector", ("architecture", "box_convs"), 2**63),
        ("detector", ("architecture", "rpn_convs"), 10**6),
        ("detector", ("architecture", "norm_eps"), math.nan),
        ("detector", ("architecture", "min_side"), 8000),
        ("detector", ("architecture", "more"), 1),
        ("detector", ("score_threshold",), 1.5),
        ("detector", ("mask_nms",), "yes"),
        ("detector", ("display_threshold",), -0.1),
    ],
)
def test_values_out_of_range_are_named(fixture: str, path: tuple[str, ...], value: Any, request: Any) -> None:
    folder: Path = request.getfixturevalue(fixture)
    mutate(folder, (folder / "model.json").read_text(), path, value, "replace")
    with pytest.raises(UserError, match=rf"{folder / 'model.json'}.*{path[-1]}"):
        load_model(folder)


def test_large_or_deeply_nested_configurations_are_refused(model: Path) -> None:
    config = model / "model.json"
    content = config.read_text()
    config.write_text(content[:-2] + " " * (17 << 20) + "}")
    with pytest.raises(UserError, match=r"model\.json .*\d+ bytes"):
        load_model(model)
    config.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"model\.json"):
        load_model(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_other_types_of_weights_are_read_as_float32(dtype: torch.dtype, model: Path) -> None:
    path = model / "model.safetensors"
    stored = load_file(path)
    save_file({name: v.to(dtype) if v.is_floating_point() else v for name, v in stored.items()}, path)
    state = load_model(model)[0].state_dict()
    for name, value in stored.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value.to(dtype).to(value.dtype))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinite_weights_are_refused(value: float, model: Path) -> None:
    path = model / "model.safetensors"
    stored = load_file(path)
    stored["score.8.bias"][2] = value
    save_file(stored, path)
    with pytest.raises(UserError, match=r"score\.8\.bias"):
        load_model(model)


def test_float64_weights_outside_float32_are_refused(model: Path) -> None:
    path = model / "model.safetensors"
    stored = load_file(path)
    stored["score.8.bias"] = torch.full_like(stored["score.8.bias"], 1e300, dtype=torch.float64)
    save_file(stored, path)
    with pytest.raises(UserError, match=r"score\.8\.bias"):
        load_model(model)


@pytest.mark.parametrize("damage", ["complex", "integers", "variance"])
def test_weights_of_other_types_and_negative_variances_are_refused(damage: str, model: Path) -> None:
    path = model / "model.safetensors"
    stored = load_file(path)
    name = next(name for name in stored if name.endswith("running_var"))
    stored[name] = {
        "complex": stored[name].to(torch.complex64),
        "integers": stored[name].long(),
        "variance": -1 - stored[name],
    }[damage]
    save_file(stored, path)
    with pytest.raises(UserError, match=name):
        load_model(model)


def test_weights_that_are_not_a_regular_file_are_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is missing or not a file"):
        package.load(model)


def test_large_finite_weights_are_read(model: Path) -> None:
    path = model / "model.safetensors"
    stored = load_file(path)
    stored["score.8.bias"][:] = 3e38
    save_file(stored, path)
    load_model(model)


def test_class_names_with_escape_sequences_are_printed_escaped(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((model / "model.json").read_text())
    config["classes"] = ["\x1b[31mred\x07", "x" * 2000, *config["classes"][2:]]
    (model / "model.json").write_text(json.dumps(config))
    assert upscore(monkeypatch, "evaluate", model, photos) == 2
    assert "\x1b" not in capsys.readouterr().err
    shutil.copytree(photos, tmp_path / "copy")
    (tmp_path / "copy/classes.txt").write_text("\n".join(config["classes"]) + "\n", newline="")
    assert upscore(monkeypatch, "evaluate", model, tmp_path / "copy") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "x" * 100 not in out


def test_folders_of_earlier_versions_are_read(detector: Path) -> None:
    """Earlier versions have other names of fields and of the tensors of the backbone."""
    present, config = load_model(detector)
    content = json.loads((detector / "model.json").read_text())
    for part, old, new in (
        (content["architecture"], "profile", "preset"),
        (content["architecture"], "detections", "max_detections"),
        (content, "min_score", "score_threshold"),
    ):
        part[old] = part.pop(new)
    (detector / "model.json").write_text(json.dumps(content))
    earlier, earlier_config = load_model(detector)
    assert earlier_config == config
    assert earlier.architecture == present.architecture
    assert config.score_threshold == earlier.score_threshold == 0.5495824217796326
    save_model(detector, earlier, classes=config.classes)
    assert not any(name.startswith("trunk.") for name in load_file(detector / "model.safetensors"))
    again = load_model(detector)[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in present.state_dict().items())
