from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.tiny import scenes, tiny_net
from upscore.checkpoints import save_model
from upscore.checkpoints.config import FCNArchitecture, MaskRCNNArchitecture, read_config
from upscore.errors import UserError
from upscore.models.build import build_fcn
from upscore.models.mask_rcnn.build import build_mask_rcnn


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", tiny_net(), classes=scenes().classes)
    return tmp_path / "model"


def edit(model: Path, **fields: object) -> None:
    config = json.loads((model / "model.json").read_text())
    for dotted, value in fields.items():
        *parents, last = dotted.split("__")
        part = config
        for parent in parents:
            part = part[parent]
        part[last] = value
    (model / "model.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "upscore-9"}, "format: .*'upscore-1'"),
        ({"architecture__num_classes": 5}, r"classes .*8 .*architecture\.num_classes is 5"),
        ({"architecture__num_classes": 0}, "architecture.num_classes"),
        ({"architecture__geometry": "odd"}, "architecture.geometry"),
        ({"architecture__pretrained": True}, "architecture.pretrained"),
        ({"classes": "abc"}, "classes"),
        ({"preprocessing__mean": [1, 2]}, "preprocessing.mean"),
        ({"max_side": -1}, "max_side"),
    ],
)
def test_invalid_fields_are_named(fields: dict[str, object], message: str, model: Path) -> None:
    edit(model, **fields)
    with pytest.raises(UserError, match=f"{model / 'model.json'}: {message}"):
        read_config(model)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_damaged_files_are_named(content: bytes, model: Path) -> None:
    (model / "model.json").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.json"):
        read_config(model)


@pytest.mark.parametrize(("fields", "build"), [(FCNArchitecture, build_fcn), (MaskRCNNArchitecture, build_mask_rcnn)])
def test_fields_equal_the_arguments_of_the_builders(fields: type[BaseModel], build: Callable[..., object]) -> None:
    arguments = inspect.signature(build).parameters.keys() - {"pretrained", "backbone_module"}
    assert fields.model_fields.keys() == arguments | {"name"}
