from __future__ import annotations

import builtins
import re
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from upscore.data import read_image
from upscore.data.io import tiff
from upscore.data.io.georeference import Georeference, read_georeference
from upscore.data.io.rasters import InMemoryRaster, Window, ZarrRaster, open_raster
from upscore.data.io.tiff import TiffRaster, UnstreamableError
from upscore.errors import UserError

HEIGHT, WIDTH = 151, 213
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = RGB[..., 0].copy()
PLANES = np.ascontiguousarray(RGB.transpose(2, 0, 1))
WINDOWS = [(0, 0, HEIGHT, WIDTH), (0, 0, 1, 1), (HEIGHT - 1, WIDTH - 1, 1, 1), (5, 7, 100, 150), (63, 95, 3, 3)]
LAYOUTS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "one strip": (RGB, {}),
    "strips": (RGB, {"rowsperstrip": 17}),
    "compressed strips": (RGB, {"rowsperstrip": 17, "compression": "zlib"}),
    "tiles": (RGB, {"tile": (64, 96), "compression": "zlib", "predictor": True}),
    "BigTIFF": (RGB, {"tile": (64, 64), "bigtiff": True}),
    "big-endian": (RGB, {"byteorder": ">", "compression": "zlib"}),
    "planes in tiles": (PLANES, {"planarconfig": "separate", "tile": (32, 48), "compression": "zlib"}),
    "planes": (PLANES, {"planarconfig": "separate"}),
    "grey": (GREY, {"rowsperstrip": 10, "compression": "zlib"}),
    "0 is white": (GREY, {"photometric": "miniswhite", "tile": (64, 64)}),
    "16 bits": (GREY.astype(np.uint16) * 200, {"tile": (64, 64), "compression": "zlib"}),
    "16 bits, big-endian": (GREY.astype(np.uint16) * 200, {"byteorder": ">"}),
    "floats": (RGB.astype(np.float32) / 255, {"tile": (64, 64)}),
    "1 bit": (GREY > 100, {}),
    "alpha": (np.dstack([RGB, GREY]), {"tile": (64, 64), "extrasamples": ["unassalpha"]}),
    "palette": (GREY, {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256) * 80}),
}


def write(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    colour = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(path, pixels, **{"photometric": colour, **options})
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_of_a_tiff_equal_those_of_the_whole_image(tmp_path: Path, layout: str) -> None:
    pixels, options = LAYOUTS[layout]
    path = write(tmp_path / "a.tif", pixels, **options)
    raster, image = TiffRaster(path), read_image(path)
    assert (raster.height, raster.width) == (HEIGHT, WIDTH)
    for top, left, height, width in WINDOWS:
        window = raster.read(top, left, height, width)
        assert window.dtype == torch.uint8
        assert window.is_contiguous()
        assert torch.equal(window, image[:, top : top + height, left : left + width])


def test_16_bit_colours_are_reduced_to_8_bits(tmp_path: Path) -> None:
    deep = RGB.astype(np.uint16) * 257
    raster = TiffRaster(write(tmp_path / "a.tif", deep))
    assert torch.equal(raster.read(0, 0, HEIGHT, WIDTH), torch.from_numpy(PLANES))


def test_ome_tiff_with_a_page_per_channel(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ome.tif", PLANES, photometric="minisblack", metadata={"axes": "CYX"}, tile=(64, 64))
    raster = open_raster(path)
    assert isinstance(raster, TiffRaster)
    assert torch.equal(raster.read(3, 5, 90, 70), torch.from_numpy(PLANES)[:, 3:93, 5:75])


def pyramid(path: Path, **options: Any) -> Path:
    with tifffile.TiffWriter(path, **options) as file:
        file.write(RGB, tile=(64, 64), subifds=1, photometric="rgb")
        file.write(RGB[::2, ::2], tile=(64, 64), subfiletype=1, photometric="rgb")
    return path


@pytest.mark.parametrize("options", [{}, {"ome": True}, {"bigtiff": True}])
def test_levels_of_a_pyramid(tmp_path: Path, options: dict[str, bool]) -> None:
    path = pyramid(tmp_path / "a.tif", **options)
    finest, coarser = open_raster(path), open_raster(path, pyramid_level=1)
    assert torch.equal(finest.read(0, 0, HEIGHT, WIDTH), torch.from_numpy(PLANES))
    assert (coarser.height, coarser.width) == RGB[::2, ::2].shape[:2]
    assert torch.equal(coarser.read(1, 2, 60, 50), torch.from_numpy(PLANES[:, ::2, ::2])[:, 1:61, 2:52])
    with pytest.raises(UserError, match=r"a\.tif: .*level 2.* 0 to 1"):
        open_raster(path, pyramid_level=2)


def test_only_the_tiles_of_a_window_are_decoded_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = tiff._decode
    monkeypatch.setattr(tiff, "_decode", lambda page, index: decoded.append(index) or decode(page, index))
    raster = TiffRaster(write(tmp_path / "a.tif", RGB, tile=(64, 64), compression="zlib"))
    raster.read(70, 10, 20, 60)
    assert decoded == [4, 5]  # the second row of four tiles
    raster.read(60, 70, 10, 10)
    assert decoded == [4, 5, 1]  # one was cached
    monkeypatch.setattr(tiff, "CACHE_BYTES", 64 * 64 * 3 * 2)
    raster.read(0, 0, HEIGHT, WIDTH)
    assert len(raster._cache) == 2


def test_missing_tiles_of_a_sparse_file_are_blank(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    blocks = iter([b"", zlib.compress(bytes([7]) * 64 * 64), b"", b""])
    tifffile.imwrite(path, blocks, shape=(128, 128), dtype=np.uint8, tile=(64, 64), compression="zlib")
    pixels = TiffRaster(path).read(0, 0, 128, 128)
    assert pixels[:, :64, 64:].unique().tolist() == [7]
    assert pixels.sum() == 3 * 7 * 64 * 64


def test_a_stack_is_refused(tmp_path: Path) -> None:
    for name, options in (("pages.tif", {}), ("imagej.tif", {"imagej": True})):
        path = write(tmp_path / name, np.zeros((5, 40, 40), np.uint8), photometric="minisblack", **options)
        with pytest.raises(UserError, match=f"{name}: .*pages"):
            open_raster(path)


def test_rotated_tiffs_are_read_as_a_whole_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = write(tmp_path / "turned.tif", RGB, extratags=[(274, 3, 1, 6, True)])
    with pytest.raises(UnstreamableError, match=r"turned\.tif"):
        TiffRaster(turned)
    raster = open_raster(turned)
    assert isinstance(raster, InMemoryRaster)
    assert (raster.height, raster.width) == (WIDTH, HEIGHT)
    monkeypatch.setattr("upscore.data.io.rasters.LARGE", 100)
    with pytest.raises(UserError, match=r"turned\.tif"):
        open_raster(turned)


def test_large_compressed_strips_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "MAX_SEGMENT_BYTES", 50_000)
    with pytest.raises(UnstreamableError, match=r"a\.tif: .*213x151"):
        TiffRaster(write(tmp_path / "a.tif", RGB, rowsperstrip=HEIGHT, compression="zlib"))
    monkeypatch.setattr(tiff, "STRIP_BYTES", 20_000)
    raster = TiffRaster(write(tmp_path / "b.tif", RGB, rowsperstrip=HEIGHT))  # uncompressed: any rows can be read
    assert torch.equal(raster.read(0, 0, HEIGHT, WIDTH), torch.from_numpy(PLANES))


def test_unsupported_colour_spaces_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnstreamableError, match=r"a\.tif: .*CIELAB"):
        TiffRaster(write(tmp_path / "a.tif", RGB, photometric="cielab"))


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="imagecodecs is installed, which reads LZW")
def test_a_missing_codec_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(RGB).save(path, compression="tiff_lzw")
    with pytest.raises(UnstreamableError, match=r"LZW.*imagecodecs"):
        TiffRaster(path)
    assert torch.equal(open_raster(path).read(0, 0, HEIGHT, WIDTH), torch.from_numpy(PLANES))


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", RGB, tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 20] = bytes(20)
    path.write_bytes(data)
    raster = open_raster(path)
    raster.read(64, 64, 10, 10)
    with pytest.raises(UserError, match=r"a\.tif: "):
        raster.read(0, 0, 10, 10)
    for name in ("none.tif", "none.zarr"):
        with pytest.raises(UserError, match=name):
            open_raster(tmp_path / name)


def test_windows_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    assert torch.equal(open_raster(path).read(2, 3, 40, 50), torch.from_numpy(PLANES)[:, 2:42, 3:53])
    with pytest.raises(UserError, match=r"a\.png: .*level 1"):
        open_raster(path, pyramid_level=1)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("pixels", [GREY, RGB, PLANES, PLANES[None, :, None], np.dstack([RGB, GREY])], ids=np.shape)
def test_windows_of_a_zarr_array(tmp_path: Path, pixels: np.ndarray, version: int) -> None:
    zarr = pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    path = tmp_path / "a.zarr"
    chunks = tuple(min(side, 64) for side in pixels.shape)
    array = zarr.create_array(str(path), shape=pixels.shape, chunks=chunks, dtype="u1", zarr_format=version)
    array[:] = pixels
    raster = open_raster(path)
    assert isinstance(raster, ZarrRaster)
    assert (raster.height, raster.width) == (HEIGHT, WIDTH)
    whole = torch.from_numpy(np.stack([GREY] * 3) if pixels.ndim == 2 else PLANES)
    for top, left, height, width in WINDOWS:
        assert torch.equal(raster.read(top, left, height, width), whole[:, top : top + height, left : left + width])


@pytest.mark.parametrize("version", [2, 3])
def test_levels_of_an_ome_zarr(tmp_path: Path, version: int) -> None:
    zarr = pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=version)
    for name, pixels in (("0", PLANES), ("1", PLANES[:, ::2, ::2])):
        group.create_array(name, shape=pixels.shape, chunks=(1, 64, 64), dtype="u1")[:] = pixels
    with pytest.raises(UserError, match=r"a\.zarr: .*multiscales"):
        open_raster(tmp_path / "a.zarr")
    scales = [{"datasets": [{"path": "0"}, {"path": "1"}]}]
    group.attrs.update({"multiscales": scales} if version == 2 else {"ome": {"multiscales": scales}})
    assert torch.equal(open_raster(tmp_path / "a.zarr").read(0, 0, HEIGHT, WIDTH), torch.from_numpy(PLANES))
    assert open_raster(tmp_path / "a.zarr", pyramid_level=1).height == 76
    with pytest.raises(UserError, match="level 2"):
        open_raster(tmp_path / "a.zarr", pyramid_level=2)


def test_colours_of_an_ome_zarr(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3)
    bands = np.stack([GREY, *PLANES[::-1]])
    group.create_array("0", shape=bands.shape, chunks=(1, 64, 64), dtype="u1")[:] = bands
    for path in (tmp_path / "a.zarr", tmp_path / "a.zarr" / "0"):
        group.attrs.update({"ome": {"multiscales": [{"datasets": [{"path": "0"}]}]}})
        with pytest.raises(UserError, match="has 4 channels"):
            open_raster(path)
    channels = [{"color": colour} for colour in ("FFFFFF", "0000ff", "00FF00", "FF0000")]
    for unsaid in ([], {}, [{}] * 4, channels[:3]):
        group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": unsaid}}
        with pytest.raises(UserError, match="has 4 channels"):
            open_raster(tmp_path / "a.zarr")
    for damaged in (5, [5], {"a": 1}):
        group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": damaged}}
        with pytest.raises(UserError, match=r"a\.zarr: "):
            open_raster(tmp_path / "a.zarr")
    group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": channels}}
    assert torch.equal(open_raster(tmp_path / "a.zarr").read(5, 7, 90, 80), torch.from_numpy(PLANES)[:, 5:95, 7:87])


@pytest.mark.parametrize("shape", [(5, 40, 40), (2, 3, 40, 40), (40,)])
def test_zarr_arrays_of_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    zarr = pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    zarr.create_array(str(tmp_path / "a.zarr"), shape=shape, dtype="u1")
    with pytest.raises(UserError, match=re.escape(str(shape))):
        open_raster(tmp_path / "a.zarr")


def test_a_missing_zarr_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zarr.json").write_text("{}")
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "zarr":
            raise ImportError
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'upscore\[zarr\]'"):
        open_raster(tmp_path)


def test_ends_of_a_window() -> None:
    assert (Window(2, 3, 10, 20).bottom, Window(2, 3, 10, 20).right) == (12, 23)


REFERENCES = {
    "UTM": ("EPSG:32633", (0.25, 0, 500000.3, 0, -0.25, 5200000.7)),
    "degrees": ("EPSG:4326", (1e-5, 0, 12.1, 0, -2e-5, 47.3)),
    "rotated": ("EPSG:3857", (0.5, 0.1, 1e6, 0.2, -0.5, 2e6)),
    "without EPSG code": ("+proj=laea +lat_0=45.5 +lon_0=10.25 +datum=WGS84", (10, 0, 0, 0, -10, 0)),
}


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("reference", REFERENCES)
def test_rasterio_reads_the_copied_and_the_reduced_georeference(tmp_path: Path, reference: str, point: bool) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
    crs, numbers = REFERENCES[reference]
    transform = rasterio.Affine(*numbers)
    source, copy, half = tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "c.tif"
    preset = {"driver": "GTiff", "width": 96, "height": 64, "count": 3, "dtype": "uint8"}
    with rasterio.open(source, "w", crs=crs, transform=transform, **preset) as file:
        file.write(np.zeros((3, 64, 96), np.uint8))
        if point:
            file.update_tags(AREA_OR_POINT="Point")
    georeference = read_georeference(source)
    assert georeference is not None
    write(copy, np.zeros((64, 96), np.uint8), extratags=georeference.extratags())
    write(half, np.zeros((32, 48), np.uint8), extratags=georeference.reduced(2, 2).extratags())
    with rasterio.open(source) as one, rasterio.open(copy) as other, rasterio.open(half) as smaller:
        assert one.crs == other.crs == smaller.crs
        assert one.transform == other.transform
        assert np.allclose(smaller.transform, transform @ rasterio.Affine.scale(2), rtol=1e-12)


def test_files_without_a_georeference(tmp_path: Path) -> None:
    assert read_georeference(write(tmp_path / "a.tif", RGB)) is None
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert read_georeference(tmp_path / "a.png") is None
    assert read_georeference(tmp_path) is None


def test_the_georeference_of_a_pyramid_level_is_reduced(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    georeference = Georeference({33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 100.0, 200.0, 0.0)})
    with tifffile.TiffWriter(path) as file:
        file.write(RGB[:150, :210], photometric="rgb", subifds=1, extratags=georeference.extratags())
        file.write(RGB[:150:2, :210:2], photometric="rgb", subfiletype=1)
    assert read_georeference(path) == georeference
    assert read_georeference(path, pyramid_level=1) == georeference.reduced(2, 2)


def test_damaged_geotiff_tags_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", RGB, extratags=[(33922, 12, 4, (0.0, 0.0, 0.0, 1.0), True)])
    with pytest.raises(UserError, match=r"a\.tif: .*GeoTIFF"):
        read_georeference(path)
