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
    ("fields", "sentence"),
    [
        ({"format": "upscore-9"}, "format: Input should be 'upscore-1'"),
        ({"architecture__num_classes": 5}, "8 class names, but architecture.num_classes is 5"),
        ({"architecture__num_classes": 0}, "architecture.num_classes"),
        ({"architecture__geometry": "odd"}, "architecture.geometry"),
        ({"architecture__pretrained": True}, "architecture.pretrained"),
        ({"classes": "abc"}, "classes"),
        ({"preprocessing__mean": [1, 2]}, "preprocessing.mean"),
        ({"max_side": -1}, "max_side"),
    ],
)
def test_a_card_that_is_not_valid(fields: dict[str, object], sentence: str, model: Path) -> None:
    edit(model, **fields)
    with pytest.raises(UserError, match=f"{model / 'model.json'}: {sentence}"):
        read_config(model)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_damaged_card(content: bytes, model: Path) -> None:
    (model / "model.json").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.json"):
        read_config(model)


@pytest.mark.parametrize(("fields", "build"), [(FCNArchitecture, build_fcn), (MaskRCNNArchitecture, build_mask_rcnn)])
def test_the_fields_are_the_arguments_of_the_builders(fields: type[BaseModel], build: Callable[..., object]) -> None:
    arguments = inspect.signature(build).parameters.keys() - {"pretrained", "backbone_module"}
    assert fields.model_fields.keys() == arguments | {"name"}
