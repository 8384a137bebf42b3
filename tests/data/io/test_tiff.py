"""Colours of TIFFs: `read_image` and `open_raster` interpret the tags alike."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from upscore.data import read_image
from upscore.data.io.rasters import open_raster
from upscore.data.io.tiff import TiffRaster
from upscore.errors import UserError

HEIGHT, WIDTH = 70, 90
RNG = np.random.default_rng(7)
BYTES = RNG.integers(0, 256, (HEIGHT, WIDTH, 5), dtype=np.uint8)
WORDS = RNG.integers(0, 65536, (HEIGHT, WIDTH, 5), dtype=np.uint16)
RGB, GREY = BYTES[..., :3], BYTES[..., 0]
UPPER = (WORDS >> 8).astype(np.uint8)
FLOATS = RNG.random((HEIGHT, WIDTH, 3), dtype=np.float32)
COLOUR_MAP = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)

Kind = tuple[np.ndarray, dict[str, Any], np.ndarray]


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


def multiplied(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    white = np.iinfo(pixels.dtype).max
    return np.dstack([(pixels.astype(np.uint64) * alpha[..., None] // white).astype(pixels.dtype), alpha])


def divided(pixels: np.ndarray) -> np.ndarray:
    white, alpha = np.iinfo(pixels.dtype).max, pixels[..., -1:].astype(np.uint64)
    return np.where(alpha > 0, np.minimum(pixels[..., :-1] * np.uint64(white) // np.maximum(alpha, 1), white), 0)


PREMULTIPLIED = multiplied(RGB, BYTES[..., 3])
DEEP_PREMULTIPLIED = multiplied(WORDS[..., :3], WORDS[..., 3])
SPARE = ["unspecified"]
ALPHA = {"extrasamples": ["unassalpha"]}
ROLES = "<GDALMetadata>\n{}</GDALMetadata>"
ROLE = '<Item name="COLORINTERP" sample="{}" role="colorinterp">{}</Item>\n'


def roles(*names: str) -> dict[str, Any]:
    text = ROLES.format("".join(ROLE.format(sample, name) for sample, name in enumerate(names)))
    return {"extratags": [(42112, 2, 0, text, True)]}


def largest(value: int, number: int = 281) -> dict[str, Any]:
    return {"extratags": [(number, 3, 1, value, True)]}


KINDS: dict[str, Kind] = {
    "grey": (GREY, {}, GREY),
    "0 is white": (GREY, {"photometric": "miniswhite"}, 255 - GREY),
    "1 bit": (GREY > 99, {}, np.where(GREY > 99, 255, 0)),
    "1 bit, 0 is white": (GREY > 99, {"photometric": "miniswhite"}, np.where(GREY > 99, 0, 255)),
    "grey and alpha": (BYTES[..., :2], ALPHA, GREY),
    "RGB": (RGB, {}, RGB),
    "RGBA": (BYTES[..., :4], {**ALPHA, "photometric": "rgb"}, RGB),
    "RGB and near infrared": (BYTES[..., :4], {"photometric": "rgb", "extrasamples": SPARE}, RGB),
    "RGB and two": (BYTES, {"photometric": "rgb", "extrasamples": SPARE * 2}, RGB),
    "RGB multiplied by alpha": (
        PREMULTIPLIED,
        {"photometric": "rgb", "extrasamples": ["assocalpha"]},
        divided(PREMULTIPLIED),
    ),
    "grey multiplied by alpha": (
        PREMULTIPLIED[..., 2:],
        {"extrasamples": ["assocalpha"]},
        divided(PREMULTIPLIED[..., 2:])[..., 0],
    ),
    "three bands": (RGB, {"photometric": "minisblack", "extrasamples": SPARE * 2}, RGB),
    "three bands and alpha": (BYTES[..., :4], {"extrasamples": [*SPARE * 2, "unassalpha"]}, RGB),
    "planes": (planes(RGB), {"photometric": "rgb", "planarconfig": "separate"}, RGB),
    "planes with alpha": (planes(BYTES[..., :4]), {**ALPHA, "photometric": "rgb", "planarconfig": "separate"}, RGB),
    "palette": (GREY, {"photometric": "palette", "colormap": COLOUR_MAP}, (COLOUR_MAP >> 8).T[GREY]),
    "BGRN by name": (
        BYTES[..., :4],
        {"extrasamples": SPARE * 3, **roles("Blue", "Green", "Red", "NIR")},
        RGB[..., ::-1],
    ),
    "BGR by name": (RGB, {"photometric": "rgb", **roles("Blue", "Green", "Red")}, RGB[..., ::-1]),
    "the last three by name": (
        planes(BYTES),
        {"planarconfig": "separate", "extrasamples": SPARE * 4, **roles("Pan", "NIR", "Red", "Green", "Blue")},
        BYTES[..., 2:],
    ),
    "16 bits": (WORDS[..., 0], {}, UPPER[..., 0]),
    "16 bits, 0 is white": (WORDS[..., 0], {"photometric": "miniswhite"}, 255 - UPPER[..., 0]),
    "16 bits, signed": (WORDS[..., 0].view(np.int16) & 0x7FFF, {}, (WORDS[..., 0] & 0x7FFF) >> 7),
    "16 bits RGB": (WORDS[..., :3], {}, UPPER[..., :3]),
    "16 bits RGBA": (WORDS[..., :4], {**ALPHA, "photometric": "rgb"}, UPPER[..., :3]),
    "16 bits RGB multiplied by alpha": (
        DEEP_PREMULTIPLIED,
        {"photometric": "rgb", "extrasamples": ["assocalpha"]},
        divided(DEEP_PREMULTIPLIED) >> 8,
    ),
    "16 bits, planes": (
        planes(WORDS[..., :3]),
        {"photometric": "rgb", "planarconfig": "separate"},
        UPPER[..., :3],
    ),
    "16 bits, grey and alpha": (WORDS[..., :2], ALPHA, UPPER[..., 0]),
    "16 bits, three bands": (
        WORDS[..., :3],
        {"photometric": "minisblack", "extrasamples": SPARE * 2},
        UPPER[..., :3],
    ),
    "12 bits of 16": (WORDS[..., 0] >> 4, largest(4095), UPPER[..., 0]),
    "12 bits of 16, signed": ((WORDS[..., 0] >> 4).astype(np.int16), largest(4095, 341), UPPER[..., 0]),
    "12 bits of 16, RGB": (WORDS[..., :3] >> 4, largest(4095), UPPER[..., :3]),
    "8 bits of 16, 0 is white": (BYTES[..., 0].astype(np.uint16), {"photometric": "miniswhite", **largest(255)}, ~GREY),
    "a statistic": (WORDS[..., 0] // 2, largest(32000), UPPER[..., 0] >> 1),
    "32 bits": (WORDS[..., 0].astype(np.uint32), {}, UPPER[..., 0]),
    "floats": (FLOATS, {}, np.rint(FLOATS * 255)),
    "floats, 0 is white": (FLOATS[..., 0], {"photometric": "miniswhite"}, 255 - np.rint(FLOATS[..., 0] * 255)),
    "doubles": (FLOATS[..., 0].astype(np.float64), {}, np.rint(FLOATS[..., 0].astype(np.float64) * 255)),
}
STORED: dict[str, dict[str, Any]] = {
    "as they are": {},
    "strips": {"rowsperstrip": 16, "compression": "zlib"},
    "tiles, big-endian": {"tile": (32, 48), "compression": "zlib", "byteorder": ">"},
}


def write(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    colour = "rgb" if pixels.shape[2:] == (3,) else "minisblack"
    tifffile.imwrite(path, pixels, **{"photometric": colour, "planarconfig": "contig", "metadata": None, **options})
    return path


def expected(pixels: np.ndarray) -> torch.Tensor:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(np.ascontiguousarray(planes(np.broadcast_to(pixels, (HEIGHT, WIDTH, 3))).astype(np.uint8)))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error::upscore.data.io.bit_depth.DarkImageWarning")
def test_both_readers_give_the_same_colours(tmp_path: Path, kind: str, stored: str) -> None:
    pixels, options, colours = KINDS[kind]
    path = write(tmp_path / "a.tif", pixels, **options, **STORED[stored])
    whole, raster = read_image(path), TiffRaster(path)
    assert torch.equal(whole, expected(colours))
    assert torch.equal(raster.read(0, 0, HEIGHT, WIDTH), whole)
    assert torch.equal(raster.read(11, 13, 40, 50), whole[:, 11:51, 13:63])


@pytest.mark.parametrize("kind", ["L", "LA", "1", "P", "RGB", "RGBA", "RGBX", "I;16"])
def test_files_written_by_pillow(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(WORDS[..., 0]) if kind == "I;16" else Image.fromarray(RGB).convert(kind)
    image.save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    image.save(tmp_path / "lzw.tif", compression="tiff_lzw")
    image.save(tmp_path / "a.png") if kind != "RGBX" else image.convert("RGB").save(tmp_path / "a.png")
    whole = read_image(tmp_path / "a.png")
    for name in ("a.tif", "lzw.tif"):
        assert torch.equal(read_image(tmp_path / name), whole)
        assert torch.equal(open_raster(tmp_path / name).read(0, 0, HEIGHT, WIDTH), whole)


REFUSED: dict[str, tuple[np.ndarray, dict[str, Any], str]] = {
    "four bands": (BYTES[..., :4], {"extrasamples": SPARE * 3}, "has 4 channels"),
    "four bands, 16 bits": (WORDS[..., :4], {"extrasamples": SPARE * 3}, "gdal_edit.py"),
    "four planes": (planes(BYTES[..., :4]), {"planarconfig": "separate"}, "has 4 channels"),
    "five bands": (BYTES, {"extrasamples": SPARE * 4}, "has 5 channels"),
    "four bands and alpha": (BYTES, {"extrasamples": [*SPARE * 3, "unassalpha"]}, "has 5 channels"),
    "two named of four": (BYTES[..., :4], {"extrasamples": SPARE * 3, **roles("Red", "Green")}, "has 4 channels"),
    "a name of no band": (
        BYTES[..., :4],
        {"extrasamples": SPARE * 3, **roles("", "", "", "", "Red", "Green", "Blue")},
        "has 4 channels",
    ),
    "two bands": (BYTES[..., :2], {"extrasamples": SPARE}, "has 2 channels"),
    "two bands, 16 bits": (WORDS[..., :2], {"extrasamples": SPARE}, "has 2 channels"),
    "above what it states": (WORDS[..., 0] | 4096, largest(4095), "12 bits.* 4095"),
    "below 0": (WORDS[..., 0].view(np.int16) | -32768, {}, "15 bits.* 32767"),
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", REFUSED)
def test_both_readers_refuse_the_same(tmp_path: Path, kind: str, stored: str) -> None:
    pixels, options, message = REFUSED[kind]
    path = write(tmp_path / "a.tif", pixels, **options, **STORED[stored])
    with pytest.raises(UserError, match=rf"a\.tif: .*{message}"):
        read_image(path)
    with pytest.raises(UserError, match=rf"a\.tif: .*{message}"):
        open_raster(path).read(0, 0, HEIGHT, WIDTH)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_bands_named_by_rasterio_are_read(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
    from rasterio.enums import ColorInterp

    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=4, dtype="uint16") as file:
        file.write(planes(WORDS[..., :4]))
    with pytest.raises(UserError, match="has 4 channels"):
        open_raster(path)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp[name] for name in ("blue", "green", "red", "undefined")]
    assert torch.equal(read_image(path), expected(UPPER[..., 2::-1]))
    assert torch.equal(open_raster(path).read(0, 0, HEIGHT, WIDTH), expected(UPPER[..., 2::-1]))


def test_pyramid_levels_have_the_bands_of_level_0(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    shape = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": SPARE * 3, "tile": (32, 32)}
    with tifffile.TiffWriter(path) as file:
        file.write(BYTES[..., :4], subifds=1, **shape, **roles("Blue", "Green", "Red"))
        file.write(BYTES[::2, ::2, :4], subfiletype=1, **shape)
    half = expected(RGB[..., ::-1])[:, ::2, ::2]
    assert torch.equal(open_raster(path, pyramid_level=1).read(0, 0, HEIGHT // 2, WIDTH // 2), half)


def test_pages_of_channels_and_masks(tmp_path: Path) -> None:
    for count in (3, 4):
        path = tmp_path / f"{count}.ome.tif"
        tifffile.imwrite(path, planes(BYTES[..., :count]), photometric="minisblack", metadata={"axes": "CYX"})
    assert torch.equal(read_image(tmp_path / "3.ome.tif"), expected(RGB))
    for read in (read_image, open_raster):
        with pytest.raises(UserError, match="has 4 channels"):
            read(tmp_path / "4.ome.tif")
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(RGB, photometric="rgb")
        file.write(GREY > 9, photometric="mask", subfiletype=4)
    assert torch.equal(read_image(tmp_path / "mask.tif"), expected(RGB))
    assert torch.equal(open_raster(tmp_path / "mask.tif").read(0, 0, HEIGHT, WIDTH), expected(RGB))


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="imagecodecs is installed, which reads LZW")
def test_tags_are_applied_to_images_that_pillow_decodes(tmp_path: Path) -> None:
    Image.fromarray(WORDS[..., 0] >> 4).save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={281: 1})
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages.first.tags[281].overwrite(4095)
    assert torch.equal(read_image(tmp_path / "a.tif"), expected(UPPER[..., 0]))
    gdal = {42112: roles("Blue", "Green", "Red")["extratags"][0][3]}
    Image.fromarray(RGB).save(tmp_path / "b.tif", compression="tiff_lzw", tiffinfo=gdal)
    with pytest.raises(UserError, match=r"LZW.*imagecodecs"):
        read_image(tmp_path / "b.tif")


def test_both_readers_treat_damaged_tags_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", WORDS[..., :3])
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags[284].overwrite(1025)  # PlanarConfiguration
    assert torch.equal(read_image(path), open_raster(path).read(0, 0, HEIGHT, WIDTH))
    path = write(tmp_path / "b.tif", RGB, rowsperstrip=16, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageLength"].overwrite(HEIGHT + 16)
    with pytest.raises(UserError, match=r"b\.tif: .*5 of 6"):
        read_image(path)
    with pytest.raises(UserError, match=r"b\.tif: "):
        open_raster(path).read(HEIGHT, 0, 16, WIDTH)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_raise_only_user_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for kind in ("palette", "RGB multiplied by alpha", "BGRN by name", "16 bits, grey and alpha", "12 bits of 16, RGB"):
        pixels, options, _ = KINDS[kind]
        whole = np.frombuffer(write(tmp_path / "a.tif", pixels[:9, :9], **options).read_bytes(), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, min(500, len(whole)), 5)] = rng.integers(0, 256, 5)
            (tmp_path / "a.tif").write_bytes(damaged.tobytes())
            for read in (read_image, lambda path: open_raster(path).read(0, 0, 1, 1)):
                try:
                    read(tmp_path / "a.tif")
                except UserError as error:
                    assert "a.tif" in str(error)  # noqa: PT017 - damage may also go unnoticed
