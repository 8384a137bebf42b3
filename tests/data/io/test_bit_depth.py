from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from upscore.data import read_image
from upscore.data.io.bit_depth import DarkImageWarning, sample_windows, to_bytes, warn_if_dark
from upscore.data.io.rasters import open_raster
from upscore.errors import UserError

WORDS = np.random.default_rng(5).integers(0, 65536, (50, 60), dtype=np.uint16)
PATH = Path("a.tif")


@pytest.mark.parametrize(
    ("dtype", "bits", "values", "expected"),
    [
        (np.uint8, None, [0, 7, 255], [0, 7, 255]),
        (np.uint8, 8, [0, 7, 255], [0, 7, 255]),
        (np.bool_, None, [0, 1], [0, 255]),
        (np.uint8, 2, [0, 1, 2, 3], [0, 85, 170, 255]),
        (np.uint8, 4, [0, 1, 15], [0, 17, 255]),
        (np.int8, None, [0, 127], [0, 255]),
        (np.uint16, None, [0, 255, 256, 65279, 65280, 65535], [0, 0, 1, 254, 255, 255]),
        (">u2", None, [0, 256, 65535], [0, 1, 255]),
        (np.uint16, 12, [0, 15, 16, 4095], [0, 0, 1, 255]),
        (np.int16, None, [0, 127, 128, 32767], [0, 0, 1, 255]),
        (np.int64, None, [0, 256, 65535], [0, 1, 255]),
        (np.uint64, None, [0, 256, 65535], [0, 1, 255]),
        (np.float32, None, [0, 0.5, 1], [0, 128, 255]),
        (np.float16, None, [0, 1], [0, 255]),
    ],
)
def test_values_of_every_type_are_converted_to_bytes(
    dtype: Any, bits: int | None, values: list[float], expected: list[int]
) -> None:
    made = to_bytes(np.array([values], dtype), PATH, bits)
    assert made.dtype == np.uint8
    assert made.tolist() == [expected]


@pytest.mark.parametrize(
    ("values", "bits", "message"),
    [
        (np.array([70000], np.uint32), None, "16 bits.* 65535.* 70000 to 70000"),
        (np.array([-1], np.int16), None, "15 bits.* 32767.* -1"),
        (np.array([4096], np.uint16), 12, "12 bits.* 4095.* 4096"),
        (np.array([np.nan]), None, "0 to 1.* nan"),
        (np.array([1j]), None, "complex128"),
        (np.array(["a"]), None, "<U1"),
        (np.array([object()]), None, "object"),
    ],
)
def test_values_out_of_range_and_other_types_are_refused(values: np.ndarray, bits: int | None, message: str) -> None:
    with pytest.raises(UserError, match=rf"a\.tif: .*{message}"):
        to_bytes(values, PATH, bits)


def zarr_of(path: Path, pixels: np.ndarray) -> Path:
    zarr = pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    zarr.create_array(str(path), shape=pixels.shape, chunks=(20,) * pixels.ndim, dtype=pixels.dtype)[:] = pixels
    return path


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float64])
def test_windows_and_whole_images_are_converted_to_the_same_bytes(tmp_path: Path, dtype: Any) -> None:
    values = WORDS / 65535 if dtype is np.float64 else (WORDS & np.iinfo(dtype).max).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(16, 16))
    whole = read_image(tmp_path / "a.tif")
    for path in (tmp_path / "a.tif", zarr_of(tmp_path / "a.zarr", values)):
        assert torch.equal(open_raster(path).read(0, 0, 50, 60), whole)


def test_16_bit_png_and_tiff_give_the_same_image(tmp_path: Path) -> None:
    Image.fromarray(WORDS).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([WORDS] * 3), photometric="rgb")
    assert torch.equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "a.tif"))


TWELVE = WORDS >> 4
SMALL = (WORDS >> 8).astype(np.int16)


@pytest.mark.parametrize(("pixels", "message"), [(TWELVE, "40.., .*65535"), (SMALL, "255, .*32767")])
def test_dark_images_are_reported_once_per_folder(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(16, 16), compression="zlib")
    for number, (name, read) in enumerate((("a.tif", read_image), ("a.tif", open_raster), ("a.zarr", open_raster))):
        (folder := tmp_path / str(number)).mkdir()
        path = folder / name
        zarr_of(path, pixels) if name == "a.zarr" else path.write_bytes((tmp_path / name).read_bytes())
        with pytest.warns(DarkImageWarning, match=rf"{name}: .*{message}.*gdal_translate"):
            read(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DarkImageWarning)
            read(path)  # the folder was reported


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_dark_images_are_read(tmp_path: Path, photometric: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", TWELVE, photometric=photometric)
    expected = torch.from_numpy((TWELVE >> 8 if photometric == "minisblack" else 255 - (TWELVE >> 8)).astype(np.uint8))
    with pytest.warns(DarkImageWarning):
        assert torch.equal(read_image(tmp_path / "a.tif")[0], expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DarkImageWarning)
        assert torch.equal(open_raster(tmp_path / "a.tif").read(0, 0, 50, 60)[2], expected)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (TWELVE, {"extratags": [(281, 3, 1, 4095, True)]}),
        (np.zeros_like(WORDS), {}),
        (np.where(WORDS > 60000, 8192, 0).astype(np.uint16), {}),
        ((WORDS >> 12).astype(np.uint8), {}),
        (WORDS / 655350, {}),
    ],
    ids=["stated", "blank", "an eighth", "bytes", "floats"],
)
def test_images_that_are_not_dark_are_not_reported(tmp_path: Path, pixels: np.ndarray, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DarkImageWarning)
        assert torch.equal(open_raster(tmp_path / "a.tif").read(0, 0, 50, 60), read_image(tmp_path / "a.tif"))


def test_a_warning_turned_into_an_error_keeps_its_type(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", TWELVE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DarkImageWarning)
        with pytest.raises(DarkImageWarning, match=r"a\.tif: .*gdal_translate"):
            read_image(tmp_path / "a.tif")


def test_alpha_is_not_a_bright_value(tmp_path: Path) -> None:
    pixels = np.dstack([TWELVE, np.full_like(WORDS, 65535)])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", extrasamples=["unassalpha"])
    with pytest.warns(DarkImageWarning):
        open_raster(tmp_path / "a.tif")


def test_sampled_windows_reach_every_side_of_the_image() -> None:
    for height, width in ((1, 1), (200, 300), (256, 257), (40_000, 30_000)):
        windows = sample_windows(height, width)
        assert min(top for top, _, _, _ in windows) == min(left for _, left, _, _ in windows) == 0
        assert max(top + down for top, _, down, _ in windows) == height
        assert max(left + across for _, left, _, across in windows) == width
        assert max(down * across for _, _, down, across in windows) <= 256**2


def test_images_of_8_bits_are_never_dark() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DarkImageWarning)
        warn_if_dark(np.ones((2, 2), np.uint8), PATH)
        warn_if_dark(np.ones((2, 2), np.bool_), PATH)
        warn_if_dark(np.full((2, 2), 0.01), PATH)
