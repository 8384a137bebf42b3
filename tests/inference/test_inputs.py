"""Conversion of images in any form to tensors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from upscore.data.io.images import read_image
from upscore.errors import UserError
from upscore.inference.inputs import as_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
EXPECTED = torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())


def encoded(format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format)
    return buffer.getvalue()


def test_image_files_in_all_forms(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    with path.open("rb") as file, Image.open(path) as lazy:
        forms = [path, str(path), encoded(), bytearray(encoded()), memoryview(encoded()), io.BytesIO(encoded()), file]
        for form in [*forms, lazy]:
            assert torch.equal(as_image(form), EXPECTED), type(form)


@pytest.mark.parametrize("format", ["TIFF", "BMP", "PPM"])
def test_bytes_are_decoded_like_files(tmp_path: Path, format: str) -> None:
    (tmp_path / "a").write_bytes(encoded(format))
    assert torch.equal(as_image(encoded(format)), read_image(tmp_path / "a"))


def test_bytes_of_a_16_bit_tiff(tmp_path: Path) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", PIXELS.astype(np.uint16) * 257, photometric="rgb", compression="zlib")
    assert torch.equal(as_image((tmp_path / "a.tif").read_bytes()), EXPECTED)


GREY = PIXELS[..., 0]
ARRAYS = {
    "rgb": (PIXELS, EXPECTED),
    "grey": (GREY, EXPECTED[:1].expand(3, -1, -1)),
    "one channel": (GREY[..., None], EXPECTED[:1].expand(3, -1, -1)),
    "alpha": (np.dstack([PIXELS, np.zeros_like(GREY)]), EXPECTED),
    "16 bits": (PIXELS.astype(np.uint16) * 256 + 17, EXPECTED),
    "floats": (PIXELS / 255, EXPECTED),
    "floats of 32 bits": ((PIXELS / 255).astype(np.float32), EXPECTED),
    "bool": (PIXELS > 100, (EXPECTED > 100).byte() * 255),
    "columns first": (np.asfortranarray(PIXELS), EXPECTED),
    "every other row": (PIXELS.repeat(2, 0)[::2], EXPECTED),
    "backwards": (PIXELS[::-1, ::-1], EXPECTED.flip(1, 2)),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(case: str) -> None:
    array, expected = ARRAYS[case]
    before = array.copy()
    image = as_image(array)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, expected)
    image.zero_()
    assert np.array_equal(array, before), "the result shares memory with the input"


def test_an_array_with_the_memory_layout_of_the_result_is_copied() -> None:
    planes = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
    image = as_image(planes.transpose(1, 2, 0))
    image.zero_()
    assert planes.any()


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (EXPECTED, EXPECTED),
        (EXPECTED[:1], EXPECTED[:1].expand(3, -1, -1)),
        (EXPECTED[0], EXPECTED[:1].expand(3, -1, -1)),
        (EXPECTED / 255, EXPECTED),
        ((EXPECTED / 255).requires_grad_(), EXPECTED),
        (EXPECTED.permute(1, 2, 0).contiguous().permute(2, 0, 1), EXPECTED),
    ],
)
def test_tensors(tensor: torch.Tensor, expected: torch.Tensor) -> None:
    image = as_image(tensor)
    assert torch.equal(image, expected)
    before = tensor.detach().clone()
    image.zero_()
    assert torch.equal(tensor.detach(), before), "the result shares memory with the input"


def test_pil_images_of_several_modes() -> None:
    grey_16 = GREY.astype(np.uint16) * 257
    grey = EXPECTED[:1].expand(3, -1, -1)
    for image in (
        Image.fromarray(GREY),
        Image.fromarray(grey_16),
        Image.fromarray(grey_16.astype(np.int32)),
        Image.fromarray((GREY / 255).astype(np.float32)),
    ):
        assert torch.equal(as_image(image), grey), image.mode
    colours = Image.fromarray(np.dstack([PIXELS, np.full_like(GREY, 9)]))
    assert torch.equal(as_image(colours), EXPECTED)
    assert torch.equal(as_image(Image.fromarray(PIXELS).convert("P", palette=Image.Palette.ADAPTIVE)), EXPECTED)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "None"),
        (7, "int"),
        ({"image": 1}, "dict"),
        ([PIXELS], "list"),
        (object, "type"),
        (b"", "is empty"),
        (b"not an image", "the image in bytes"),
        (encoded()[:60], "the image in bytes"),
        (io.StringIO("text"), "rb"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((3, 96, 128), np.uint8), r"\(3, 96, 128\).*last"),
        (np.zeros((4,), np.uint8), r"\(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
        (np.full((4, 4), 255.0), "255"),
        (np.full((4, 4), np.nan), "nan"),
        (np.full((4, 4), -0.5), "-0.5"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.zeros((4, 4), object), "object"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"\(4, 4, 3\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"\(1, 3, 4, 4\)"),
        (torch.zeros(3, 0, 4), r"\(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32"),
        (torch.zeros(3, 4, 4).to_sparse(), "sparse"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "int32"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_invalid_images(value: object, named: str) -> None:
    with pytest.raises(UserError, match=named):
        as_image(value)  # type: ignore[arg-type]


def test_closed_and_truncated_files(tmp_path: Path) -> None:
    file = io.BytesIO(encoded())
    file.close()
    with pytest.raises(UserError, match="file object"):
        as_image(file)
    (tmp_path / "truncated.png").write_bytes(encoded()[:70])
    with pytest.raises(UserError, match="PIL image"), Image.open(tmp_path / "truncated.png") as truncated:
        as_image(truncated)
    with pytest.raises(UserError, match=r"truncated\.png"), (tmp_path / "truncated.png").open("rb") as opened:
        as_image(opened)
