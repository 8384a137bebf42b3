import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps

from upscore.data.io import decoding
from upscore.data.io.images import LabelError, is_deep, read_image, read_label
from upscore.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]
EVERY_ORIENTATION = range(1, 9)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def save(path, pixels, **options):
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def write_png(path, rows, depth, colour, width):
    """Write a PNG of any bit depth from packed rows of bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def hwc(tensor):
    assert tensor.dtype == torch.uint8
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_rgb_is_read_exactly(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    assert np.array_equal(hwc(read_image(save(tmp_path / f"a.{suffix}", RGB, **options))), RGB)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_one_pixel_sides(tmp_path, shape):
    pixels = np.full((*shape, 3), 9, np.uint8)
    image = read_image(save(tmp_path / "a.png", pixels))
    label = read_label(save(tmp_path / "b.png", pixels[..., 0]))
    assert image.shape == (3, *shape)
    assert label.shape == shape
    image += 1  # the tensor owns its memory
    label += 1


def test_grey_palette_and_alpha_become_rgb(tmp_path):
    grey3 = np.repeat(GREY[..., None], 3, 2)
    assert np.array_equal(hwc(read_image(save(tmp_path / "l.png", GREY))), grey3)
    assert np.array_equal(hwc(read_image(save(tmp_path / "la.png", Image.fromarray(GREY).convert("LA")))), grey3)
    bits = GREY > 127
    assert np.array_equal(hwc(read_image(save(tmp_path / "1.png", bits)))[..., 0], bits * 255)
    rgba = np.dstack([RGB, GREY])
    assert np.array_equal(hwc(read_image(save(tmp_path / "rgba.png", rgba))), RGB)
    palette = Image.fromarray(GREY % 3).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])[np.array(palette)]
    path = save(tmp_path / "p.png", palette, transparency=bytes([0, 128, 255]))
    assert np.array_equal(hwc(read_image(path)), colours)


def test_cmyk_jpeg(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=100)
    red, green, blue = read_image(path)[:, 8, 8].tolist()
    assert red > 240
    assert green < 15
    assert blue < 15


def test_imagej_stacks_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 9, 9), np.uint8), imagej=True)
    for read in (read_image, read_label):
        with pytest.raises(UserError, match=r"a\.tif: .*pages"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_upper_8_of_16_bits_are_kept(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    path = save(tmp_path / f"a.{suffix}", values)
    assert read_image(path)[1].tolist() == [[0, 0, 0, 1, 128, 255]]
    assert is_deep(path)
    assert not is_deep(save(tmp_path / f"b.{suffix}", GREY))


def test_tiffs_of_16_bits_and_floats(tmp_path):
    deep = RGB.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "rgb.tif", deep, photometric="rgb")
    assert np.array_equal(hwc(read_image(tmp_path / "rgb.tif")), RGB)
    tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(hwc(read_image(tmp_path / "planar.tif")), RGB)
    tifffile.imwrite(tmp_path / "float.tif", (RGB / 255).astype(np.float32), photometric="rgb")
    assert np.array_equal(hwc(read_image(tmp_path / "float.tif")), RGB)
    tifffile.imwrite(tmp_path / "double.tif", GREY / 255)
    assert np.array_equal(hwc(read_image(tmp_path / "double.tif"))[..., 2], GREY)


def test_tiffs_of_five_channels_need_named_colours(tmp_path):
    five = np.dstack([RGB, RGB[..., :2]]).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "rgb.tif", five, photometric="rgb", extrasamples=["unspecified"] * 2)
    assert np.array_equal(hwc(read_image(tmp_path / "rgb.tif")), RGB)
    tifffile.imwrite(tmp_path / "bands.tif", five, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UserError, match=r"bands\.tif: has 5 channels"):
        read_image(tmp_path / "bands.tif")


def test_tiffs_of_several_pages_are_refused_but_pyramids_are_read(tmp_path):
    stack = [Image.fromarray(RGB), Image.fromarray(RGB)]
    stack[0].save(tmp_path / "a.tif", save_all=True, append_images=stack[1:])
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((4, 5, 6, 3), np.float64), photometric="rgb")
    for name in ("a.tif", "b.tif"):
        with pytest.raises(UserError, match=rf"{name}: .*pages"):
            read_image(tmp_path / name)
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(RGB, photometric="rgb")
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(hwc(read_image(tmp_path / "pyramid.tif")), RGB)


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, np.inf])
def test_floats_outside_0_to_1_are_refused(tmp_path, value):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0.5, value]], np.float32))
    with pytest.raises(UserError, match=r"a\.tif: floating-point pixels must be from 0 to 1"):
        read_image(tmp_path / "a.tif")


def test_integers_above_16_bits_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[1, 70000]], np.int32))
    with pytest.raises(UserError, match="from 1 to 70000"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("turn", EVERY_ORIENTATION)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_is_applied(tmp_path, turn, suffix):
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = turn
    path = save(tmp_path / f"a.{suffix}", RGB, exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(save(tmp_path / "upright.png", RGB, exif=exif))))
    assert np.array_equal(hwc(read_image(path)), expected)
    label = save(tmp_path / f"b.{suffix}", GREY, exif=exif)
    assert np.array_equal(read_label(label).numpy(), expected[..., 0])


@pytest.mark.parametrize("turn", EVERY_ORIENTATION)
def test_orientation_of_tiffs_of_floats(tmp_path, turn):
    tag = (decoding.ORIENTATION, "H", 1, turn, True)
    tifffile.imwrite(tmp_path / "a.tif", RGB / 255, photometric="rgb", extratags=[tag])
    Image.fromarray(RGB).save(tmp_path / "b.tif", tiffinfo={decoding.ORIENTATION: turn})
    assert torch.equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.tif"))


def test_palette_labels_are_read_as_indices(tmp_path):
    label = Image.fromarray(GREY % 21).convert("P")
    label.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
    stored = np.array(label)
    for name in ("a.png", "a.gif", "a.bmp", "a.tif"):
        path = save(tmp_path / name, label, optimize=False)  # optimize renumbers the colours of a GIF
        assert np.array_equal(read_label(path).numpy(), stored), name
    assert np.array_equal(read_label(save(tmp_path / "t.png", label, transparency=0)).numpy(), stored)


def test_labels_of_few_bits_are_read_as_stored(tmp_path):
    assert read_label(write_png(tmp_path / "1.png", [b"\xa0"], 1, 0, 4)).tolist() == [[1, 0, 1, 0]]
    assert read_label(write_png(tmp_path / "2.png", [b"\x1b"], 2, 0, 4)).tolist() == [[0, 1, 2, 3]]
    assert read_label(write_png(tmp_path / "4.png", [b"\x01\x9f"], 4, 0, 4)).tolist() == [[0, 1, 9, 15]]
    tifffile.imwrite(tmp_path / "white_is_zero.tif", GREY, photometric="miniswhite")
    assert np.array_equal(read_label(tmp_path / "white_is_zero.tif").numpy(), GREY)


def test_labels_of_equal_channels_or_more_bits_are_read(tmp_path):
    grey3 = np.repeat(GREY[..., None], 3, 2)
    assert np.array_equal(read_label(save(tmp_path / "rgb.png", grey3)).numpy(), GREY)
    assert np.array_equal(read_label(save(tmp_path / "rgba.png", np.dstack([grey3, 255 - GREY]))).numpy(), GREY)
    assert np.array_equal(read_label(save(tmp_path / "16.png", GREY.astype(np.uint16))).numpy(), GREY)
    for kind in (np.int32, np.uint32, np.int64, np.uint16):
        tifffile.imwrite(tmp_path / f"{kind.__name__}.tif", GREY.astype(kind))
        assert np.array_equal(read_label(tmp_path / f"{kind.__name__}.tif").numpy(), GREY)


def test_labels_with_colours_or_values_out_of_range_are_refused(tmp_path):
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[2, 3] = 128, 64, 0
    with pytest.raises(LabelError, match=r"a\.png: .*\(128, 64, 0\) at x=3, y=2"):
        read_label(save(tmp_path / "a.png", colour))
    with pytest.raises(LabelError, match=r"b\.png: .*300"):
        read_label(save(tmp_path / "b.png", np.array([[7, 300]], np.uint16)))
    with pytest.raises(LabelError, match=r"c\.jpg: JPEG"):
        read_label(save(tmp_path / "c.jpg", GREY))
    # Pillow keeps only the upper byte, in which every small index is 0.
    with pytest.raises(LabelError, match=r"d\.png: .*16"):
        read_label(write_png(tmp_path / "d.png", [b"\0\3" * 6], 16, 2, 2))
    tifffile.imwrite(tmp_path / "e.tif", np.ones((3, 3), np.float32))
    with pytest.raises(LabelError, match=r"e\.tif: .*float32"):
        read_label(tmp_path / "e.tif")
    tifffile.imwrite(tmp_path / "g.tif", RGB.astype(np.int32), photometric="rgb")
    with pytest.raises(LabelError, match=r"g\.tif: .*x=0, y=0"):  # not the red channel alone
        read_label(tmp_path / "g.tif")
    tifffile.imwrite(tmp_path / "f.tif", np.full((3, 3), -1, np.int16))
    with pytest.raises(LabelError, match=r"f\.tif: .*-1"):
        read_label(tmp_path / "f.tif")


@pytest.mark.parametrize("read", [read_image, read_label])
def test_broken_files_are_named(tmp_path, read):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "a.bmp", "a.tif", "a.gif", "a.webp", "a.ppm", "a.jpg"):
        whole = save(tmp_path / name, noise).read_bytes()
        for size in (0, 1, 3, 20, len(whole) // 2):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(UserError, match=f"{name}: "):
                read(tmp_path / name)
    (tmp_path / "text.png").write_text("not an image at all")
    (tmp_path / "fake.tif").write_bytes(b"II*\0" + bytes(range(200)))
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("text.png", "fake.tif", "script.png", "missing.png", "."):
        with pytest.raises(UserError):
            read(tmp_path / name)


def test_damaged_files_raise_only_user_errors(tmp_path):
    rng = np.random.default_rng(3)
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    exif[315] = "somebody"
    for name in ("a.png", "a.tif", "a.gif", "a.webp", "a.jpg", "a.bmp"):
        whole = np.frombuffer(save(tmp_path / name, RGB, exif=exif).read_bytes(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 6)] = rng.integers(0, 256, 6)
            (tmp_path / name).write_bytes(damaged.tobytes())
            for read in (read_image, read_label):
                try:
                    read(tmp_path / name)
                except UserError as error:
                    assert name in str(error)  # noqa: PT017 - damage may also go unnoticed


def test_the_number_of_pixels_is_bounded_before_decoding(tmp_path):
    path = write_png(tmp_path / "bomb.png", [b"\0"], 8, 0, 1)
    head = bytearray(path.read_bytes())
    head[16:24] = struct.pack(">II", 30000, 30000)
    head[29:33] = struct.pack(">I", zlib.crc32(bytes(head[12:29])))
    path.write_bytes(head)
    with pytest.raises(UserError, match=r"bomb\.png: .*30000x30000"):
        read_image(path)


def test_pillows_limit_of_pixels_is_not_applied_and_not_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(decoding, "LARGE", 10)
    for name in ("a.png", "a.tif"):
        Image.fromarray(RGB).save(tmp_path / name)
        assert np.array_equal(hwc(read_image(tmp_path / name)), RGB)
    assert Image.MAX_IMAGE_PIXELS == 10
