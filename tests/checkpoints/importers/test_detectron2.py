from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import roi_align

from tests.checkpoints.detectors import (
    detectron2_c4_shapes,
    detectron2_names,
    detectron2_shapes,
    frozen,
    marked,
    torchvision_shapes,
)
from tests.weights import he_weights
from upscore.checkpoints.importers import detectron2
from upscore.checkpoints.importers.coco_classes import coco
from upscore.checkpoints.importers.detectron2 import MSRA, import_detectron2, read_detectron2, read_pickle
from upscore.checkpoints.importers.torchvision import import_torchvision_mask_rcnn
from upscore.errors import UserError
from upscore.models import MaskRCNN
from upscore.models.mask_rcnn import boxes
from upscore.models.preprocessing import IMAGENET

ARRAYS = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column-major": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f4"),
    "half": np.array([0.5, -2], np.float16),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float32),
}


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_become_tensors(protocol: int, tmp_path: Path) -> None:
    content = {"model": OrderedDict(ARRAYS), "__author__": "Detectron2 Model Zoo", "score": np.float64(0.5)}
    read = read_pickle(write(tmp_path / "net.pkl", content, protocol))
    assert read["__author__"] == "Detectron2 Model Zoo"
    assert read["score"] == 0.5
    assert read["model"].keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert torch.equal(read["model"][name], torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))), name
    assert read["model"]["half"].dtype == torch.float16


def test_byte_strings_of_python_2_are_read(tmp_path: Path) -> None:
    # np.array([1.5, -3], "f4") as written by Python 2, whose byte strings are decoded as text
    raw = np.array([1.5, -3], "<f4").tobytes()
    stream = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + raw + b"tbs."
    )
    (tmp_path / "old.pkl").write_bytes(stream)
    assert read_pickle(tmp_path / "old.pkl")["a"].tolist() == [1.5, -3]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": Evil()}, r"(posix|nt)\.system"),
        ({"model": {"a": torch.zeros(2)}}, r"torch\._utils\._rebuild_tensor_v2"),
        ({"model": {"a": np.array([{}], dtype=object)}}, "'O8'"),
        ({"model": {"a": np.zeros(2, dtype=[("x", "f4")])}}, "type '[VU]"),
        ({"model": {"a": np.array(["text"])}}, "type '[VU]"),
        ([1, 2], "list"),
    ],
)
def test_other_contents_are_refused(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_pickle(write(tmp_path / "net.pkl", content))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        pickle.dumps(ARRAYS)[:-40],
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00.",  # claims to hold 2**48 bytes
        b"\x80\x04K\x01r\xff\xff\xff\x7f.",  # an object with the number 2**31, and nothing before it
        pickle.dumps({"a": np.arange(4)}).replace(b"\x4b\x04\x85", b"\x4b\x05\x85"),  # 5 numbers, the bytes of 4
        b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x81.",
    ],
)
def test_damaged_files_are_named(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pkl").write_bytes(raw)
    with pytest.raises(UserError, match=r"net\.pkl"):
        read_pickle(tmp_path / "net.pkl")


def test_missing_and_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nothing\.pkl"):
        read_pickle(tmp_path / "nothing.pkl")
    monkeypatch.setattr(detectron2, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="GiB"):
        read_pickle(write(tmp_path / "net.pkl", ARRAYS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": ARRAYS, "matching_heuristics": True}, "backbone"),
        ({"blobs": ARRAYS, "cfg": ""}, "Detectron "),
        ({"model": {"res2_0_branch2a_w": ARRAYS["plain"]}}, "Detectron "),
        ({"model": {}}, "tensors"),
    ],
)
def test_other_files_of_detectron_are_named(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_detectron2(write(tmp_path / "net.pkl", content))


TORCHVISION_PIXELS = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}


@pytest.fixture(scope="module")
def fpn() -> MaskRCNN:
    return import_detectron2(marked(detectron2_shapes()))


def pixels(**values: list[float]) -> dict[str, Tensor]:
    return {name: torch.tensor(three).view(3, 1, 1) for name, three in values.items()}


@pytest.mark.parametrize(
    ("shapes", "count", "backbone", "neck"),
    [
        (detectron2_shapes, 307, "resnet50", "fpn"),
        pytest.param(partial(detectron2_shapes, depth=101), 562, "resnet101", "fpn", marks=pytest.mark.slow),
        (detectron2_c4_shapes, 279, "resnet50", "c4"),
    ],
    ids=["R-50-FPN", "R-101-FPN", "R-50-C4"],
)
def test_every_tensor_is_mapped(shapes, count: int, backbone: str, neck: str) -> None:  # type: ignore[no-untyped-def]
    state = marked(shapes())
    assert len(state) == count
    net = import_detectron2(state)
    wanted = {"backbone": backbone, "neck": neck, "preset": "detectron2", "norm": "frozen", "stride_in": "1x1"}
    assert {key: net.architecture[key] for key in wanted} == wanted
    assert not net.training
    assert net.num_classes == 80
    ours = net.state_dict()
    assert len(ours) == count
    assert not any(tensor.is_meta for tensor in ours.values())
    # the number that fills a tensor identifies its origin
    of_classes = {"box_predictor.classes", "box_predictor.deltas", "mask_head.predictor"}
    origin = {
        t.flatten()[0].item(): name for name, t in state.items() if "predictor." not in name or "mask_fcn" in name
    }
    found = [origin[t.flatten()[0].item()] for key, t in ours.items() if key.rpartition(".")[0] not in of_classes]
    assert len(set(found)) == len(found) == len(origin) == count - 6


def test_names_of_tensors(fpn: MaskRCNN) -> None:
    state, ours = marked(detectron2_shapes()), fpn.state_dict()
    for key, name in {
        "backbone.body.conv1.weight": "backbone.bottom_up.stem.conv1.weight",
        "backbone.body.bn1.running_mean": "backbone.bottom_up.stem.conv1.norm.running_mean",
        "backbone.body.layer1.0.downsample.0.weight": "backbone.bottom_up.res2.0.shortcut.weight",
        "backbone.body.layer4.0.downsample.1.running_var": "backbone.bottom_up.res5.0.shortcut.norm.running_var",
        "backbone.body.layer3.5.bn3.bias": "backbone.bottom_up.res4.5.conv3.norm.bias",
        "neck.lateral.4.weight": "backbone.fpn_lateral2.weight",
        "neck.output.32.bias": "backbone.fpn_output5.bias",
        "rpn.head.convs.0.weight": "proposal_generator.rpn_head.conv.weight",
        "rpn.head.objectness.bias": "proposal_generator.rpn_head.objectness_logits.bias",
        "rpn.head.deltas.bias": "proposal_generator.rpn_head.anchor_deltas.bias",
        "box_head.fcs.0.weight": "roi_heads.box_head.fc1.weight",
        "box_head.fcs.1.bias": "roi_heads.box_head.fc2.bias",
        "mask_head.convs.0.0.weight": "roi_heads.mask_head.mask_fcn1.weight",
        "mask_head.convs.3.0.bias": "roi_heads.mask_head.mask_fcn4.bias",
        "mask_head.upsample.weight": "roi_heads.mask_head.deconv.weight",
    }.items():
        assert torch.equal(ours[key], state[name]), key
    c4_state = marked(detectron2_c4_shapes())
    c4 = import_detectron2(c4_state).state_dict()
    assert torch.equal(c4["shared_head.2.bn1.weight"], c4_state["roi_heads.res5.2.conv1.norm.weight"])
    assert torch.equal(c4["backbone.body.layer3.0.conv2.weight"], c4_state["backbone.res4.0.conv2.weight"])


@pytest.mark.slow
def test_the_same_weights_with_both_naming_schemes_give_the_same_outputs() -> None:
    shapes = torchvision_shapes()
    state = he_weights({name: torch.empty(s) for name, s in frozen(shapes).items()})
    for name in state:
        if name.endswith("running_var"):
            state[name] = 4 + state[name].abs()
    counters = {
        name: torch.tensor(0) for name in shapes.keys() - state.keys()
    }  # with counters, the epsilon is that of detectron2
    ids = [number for number, name in enumerate(import_torchvision_mask_rcnn(state).classes, 1) if "unused" not in name]
    theirs = detectron2_names(state) | pixels(**TORCHVISION_PIXELS)
    for kind in ("weight", "bias"):
        scores, deltas, masks = (
            f"roi_heads.{name}.{kind}"
            for name in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
        )
        theirs[scores] = theirs[scores][[*ids, 0]]
        theirs[deltas] = theirs[deltas].view(91, 4, *theirs[deltas].shape[1:])[ids].flatten(0, 1)
        theirs[masks] = theirs[masks][ids]
    one, other = import_torchvision_mask_rcnn(state | counters), import_detectron2(theirs)
    assert one.preprocessing == other.preprocessing == IMAGENET
    assert other.architecture["stride_in"] == "3x3"

    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    region = [torch.tensor([[3.0, 5.0, 50.0, 60.0]])]
    used = [number - 1 for number in ids]
    with torch.inference_mode():
        a, b = one(image), other(image)
        for first, second in zip([*a.maps, *a.proposals.deltas], [*b.maps, *b.proposals.deltas], strict=True):
            assert difference(second, first) < 1e-4
        pooled = one.box_pooler(a.maps, region)
        (logits, deltas), (d2_logits, d2_deltas) = (net.box_predictor(net.box_head(pooled)) for net in (one, other))
        masks, d2_masks = (net.mask_head(pooled) for net in (one, other))
    assert difference(d2_logits, logits[:, [*used, 90]]) < 1e-5
    assert difference(d2_deltas, deltas[:, used]) < 1e-5
    assert difference(d2_masks, masks[:, used]) < 1e-5
    assert [one.classes[index] for index in used] == other.classes


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_rows_of_classes_stay_in_order_with_the_background_last(fpn: MaskRCNN) -> None:
    assert fpn.box_predictor.classes.bias.tolist() == list(range(81))
    assert fpn.box_predictor.deltas.bias.view(80, 4)[:, 3].tolist() == list(range(80))
    assert fpn.mask_head.predictor.bias.tolist() == list(range(80))
    assert len(fpn.classes) == 80
    assert fpn.classes == coco()
    assert fpn.category_ids is not None
    by_name = dict(zip(fpn.classes, fpn.category_ids, strict=True))
    assert (by_name["person"], by_name["stop sign"], by_name["toothbrush"]) == (1, 13, 90)
    assert [fpn.classes.index(name) for name in ("person", "stop sign", "zebra", "toothbrush")] == [0, 11, 22, 79]
    assert import_detectron2(marked(detectron2_shapes(classes=2))).classes == ["class_0", "class_1"]


def test_preprocessing_in_the_file_is_used(fpn: MaskRCNN) -> None:
    assert fpn.preprocessing == MSRA
    assert MSRA.channel_order == "BGR"
    one = MSRA(torch.tensor([200.0, 100.0, 50.0]).view(1, 3, 1, 1)).flatten()
    assert torch.allclose(one, torch.tensor([50 - 103.53, 100 - 116.28, 200 - 123.675]))

    state = marked(detectron2_shapes())
    same = import_detectron2(state | pixels(pixel_mean=[103.53, 116.28, 123.675], pixel_std=[1.0, 1.0, 1.0]))
    assert same.preprocessing == MSRA
    blue_first = {name: values[::-1] for name, values in TORCHVISION_PIXELS.items()}
    flipped = import_detectron2(state | pixels(**blue_first))
    assert flipped.preprocessing.mean == IMAGENET.mean
    assert flipped.preprocessing.std == IMAGENET.std
    assert flipped.preprocessing.channel_order == "BGR"
    assert flipped.architecture["stride_in"] == "3x3"


def test_anchors_in_the_file_are_used(fpn: MaskRCNN) -> None:
    assert fpn.architecture["smallest_anchor"] == 32
    anchors = torch.tensor([[-11.314, -5.657, 11.314, 5.657], [-8, -8, 8, 8]])  # areas of 16 x 16 pixels
    state = marked(detectron2_shapes()) | {"proposal_generator.anchor_generator.cell_anchors.0": anchors}
    assert import_detectron2(state).architecture["smallest_anchor"] == 16


def test_the_preset_is_detectron2s(fpn: MaskRCNN) -> None:
    assert fpn.resizing.size(480, 640) == (800, 1067)
    assert fpn.preset.mask_paste == "exact"
    assert (fpn.preset.rpn_beta, fpn.preset.box_beta) == (0, 0)
    assert (fpn.preset.training.after_nms, fpn.preset.inference.after_nms) == (1000, 1000)
    # no "+ 1" in the width of a box: one of twice the width is ln 2 wider
    wider = boxes.encode(torch.tensor([[0.0, 0.0, 20.0, 10.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    assert torch.allclose(wider, torch.tensor([[0.5, 0.0, np.log(2), 0.0]]).float())


def test_roi_align_is_aligned_with_adaptive_sampling(fpn: MaskRCNN) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 2, 256 // s, 256 // s, generator=generator) for s in (4, 8, 16, 32)]
    region = torch.tensor([[10.3, 20.7, 100.2, 111.9]])
    expected = roi_align(maps[0], [region], 7, 1 / 4, sampling_ratio=0, aligned=True)
    assert torch.allclose(fpn.box_pooler(maps, [region]), expected, atol=1e-5)
    two_samples = roi_align(maps[0], [region], 7, 1 / 4, sampling_ratio=2, aligned=True)
    assert (expected - two_samples).abs().max() > 1e-2


def test_images_are_resized_as_by_pillow(fpn: MaskRCNN) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1000, 900, 3), dtype=np.uint8)
    result = fpn.resizing(torch.from_numpy(image).permute(2, 0, 1), fpn.preprocessing)
    resized = np.asarray(Image.fromarray(image).resize((800, 889), Image.Resampling.BILINEAR), np.float32)
    expected = torch.from_numpy(resized[..., ::-1] - np.float32([103.53, 116.28, 123.675])).permute(2, 0, 1)
    assert result.shape == expected.shape
    assert (result - expected).abs().max() < 1.01  # rounding of bytes may differ
    assert (result - expected).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backbone.fpn_output4.bias"), r"backbone\.fpn_output4\.bias"),
        (lambda s: s.update({"roi_heads.mask_head.mask_fcn5.bias": torch.zeros(256)}), r"mask_fcn5\.bias"),
        (lambda s: s.update({"roi_heads.box_predictor.bbox_pred.bias": torch.zeros(4)}), r"\(4,\).*\(320,\)"),
        (lambda s: [s.pop(k) for k in list(s) if "mask_head" in k], r"roi_heads\.mask_head"),
        (lambda s: s.update({"backbone.bottom_up.res2.0.conv2.weight": torch.zeros(256, 8, 3, 3)}), "ResNeXt"),
        (lambda s: s.update(pixels(pixel_mean=[1, 2, 3], pixel_std=[1, 0, 1])), "pixel_std"),
    ],
)
def test_tensors_that_do_not_match_are_named(change, message: str) -> None:  # type: ignore[no-untyped-def]
    state = marked(detectron2_shapes())
    change(state)
    with pytest.raises(UserError, match=message):
        import_detectron2(state)


def test_trainers_checkpoints_are_read(tmp_path: Path) -> None:
    state = marked(detectron2_shapes())
    torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 269_999}, tmp_path / "model_final.pth")
    read = read_detectron2(tmp_path / "model_final.pth")
    assert read.keys() == state.keys()
    assert torch.equal(read["backbone.fpn_lateral2.weight"], state["backbone.fpn_lateral2.weight"])


def test_thresholds_are_detectron2s(fpn: MaskRCNN) -> None:
    assert (fpn.score_threshold, fpn.mask_nms, fpn.max_detections, fpn.display_threshold) == (0.05, False, 100, 0.5)
