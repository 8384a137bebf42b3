"""Exact tile plans: every pixel equals that of the whole image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.models.networks import randomise_scores, thin_vgg16
from tests.tiny import BACKBONE
from upscore.data.io.rasters import InMemoryRaster
from upscore.errors import UserError
from upscore.inference import Model
from upscore.inference.tiled.in_memory import exact_plan
from upscore.inference.tiled.plan import Tile, TilePlan, class_map_tiles, core_size, tile_bytes, tile_plan
from upscore.models import build
from upscore.models.fcn.fcn import FCN
from upscore.models.receptive_field import receptive_field


def random_image(height: int, width: int) -> Tensor:
    """Return an image (3, H, W) uint8 of coarse blobs and fine noise."""
    random = torch.Generator().manual_seed(1)
    blobs = torch.rand(1, 3, height // 16 + 2, width // 16 + 2, generator=random)
    blobs = F.interpolate(blobs, size=(height, width), mode="bicubic")[0]
    return ((0.7 * blobs + 0.3 * torch.rand(3, height, width, generator=random)) * 255).clamp(0, 255).byte()


@torch.inference_mode()
def balanced(net: FCN) -> FCN:
    """Randomise the scores with mean 0, so that all classes occur and small changes of scores change classes."""
    randomise_scores(net).eval()
    maps = net.backbone(net.backbone.prepare(random_image(512, 512)[None]))
    for stride in net.strides:
        layer = net.score[str(stride)]
        scores = layer(maps[stride])
        layer.weight /= scores.std((0, 2, 3)).mean()
        layer.bias.copy_(-(layer(maps[stride]) - layer.bias[:, None, None]).mean((0, 2, 3)))
    return net


def network(name: str) -> FCN:
    torch.manual_seed(0)
    if name.startswith("vgg16"):
        upsampling = "learned" if name.endswith("learned") else "fixed"
        return balanced(FCN(thin_vgg16(name.split("-")[1]), 5, upsampling=upsampling))
    return balanced(build("fcn8s", backbone=name, num_classes=5))


def joined(net: FCN, image: Tensor, plan: TilePlan) -> tuple[np.ndarray, np.ndarray]:
    """Return the class map of the tiles and that of the whole image, both in float32."""
    predictor = Model(net, engine="torch", precision="float32")
    whole = predictor.predict(image).class_map
    assert whole is not None
    tiled = np.full_like(whole, 255)
    for tile, (class_map,), pixels in class_map_tiles(
        lambda pixels: [predictor.predict(pixels).class_map],  # type: ignore[list-item]
        InMemoryRaster(image),
        plan,
    ):
        core = slice(tile.core.top, tile.core.bottom), slice(tile.core.left, tile.core.right)
        assert torch.equal(pixels, image[:, *core])
        assert (tiled[core] == 255).all()
        tiled[core] = class_map
    assert len(np.unique(whole)) > 2
    return tiled, whole


@pytest.mark.parametrize(
    ("size", "tile_size"), [((333, 271), 96), pytest.param((523, 640), 256, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", ["vgg16-same", "vgg16-caffe", "vgg16-caffe-learned", BACKBONE])
def test_every_pixel_equals_that_of_the_whole_image(name: str, size: tuple[int, int], tile_size: int) -> None:
    net = network(name)
    geometry = receptive_field(net)
    tiled, whole = joined(
        net, random_image(*size), tile_plan(*size, tile_size=tile_size, halo=geometry.halo, grid=geometry.grid)
    )
    assert (tiled != whole).sum() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("size", "tile_size"), [((201, 901), 352), ((700, 523), 512)])
def test_every_pixel_equals_that_of_the_whole_image_with_efficientnet_lite0(
    size: tuple[int, int], tile_size: int
) -> None:
    net = network("efficientnet_lite0")
    geometry = receptive_field(net)
    tiled, whole = joined(
        net, random_image(*size), tile_plan(*size, tile_size=tile_size, halo=geometry.halo, grid=geometry.grid)
    )
    assert (tiled != whole).sum() == 0


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["same", "caffe"])
def test_every_pixel_equals_that_of_the_whole_image_with_vgg16(geometry: str) -> None:
    torch.manual_seed(0)
    net = build("fcn8s", backbone="vgg16", num_classes=5, geometry=geometry)
    net = balanced(net)
    plan = tile_plan(40, 550, tile_size=288, halo=224, grid=32)
    tiled, whole = joined(net, random_image(40, 550), plan)
    assert len(plan) == 2
    assert (tiled != whole).sum() == 0


def test_a_halo_one_step_narrower_is_not_exact() -> None:
    net, image = network("vgg16-caffe"), random_image(352, 640)
    assert receptive_field(net).halo == 224
    tiled, whole = joined(net, image, tile_plan(352, 640, tile_size=256, halo=192, grid=32))
    assert (tiled != whole).any()


def test_an_origin_off_the_grid_is_not_exact() -> None:
    net, image = network("vgg16-same"), random_image(352, 480)
    tiled, whole = joined(net, image, TilePlan(352, 480, tile_size=240, halo=224))
    assert (tiled != whole).any()


@torch.inference_mode()
def test_scores_equal_those_of_the_whole_image() -> None:
    net, image = network("vgg16-same"), random_image(505, 300)
    inputs = net.backbone.prepare(image[None])
    whole = net(inputs)[0]
    for tile in tile_plan(505, 300, tile_size=256, halo=224, grid=32):
        window = slice(tile.window.top, tile.window.bottom), slice(tile.window.left, tile.window.right)
        core = slice(tile.core.top, tile.core.bottom), slice(tile.core.left, tile.core.right)
        scores = net(inputs[:, :, *window])[0, :, *tile.core_slices]
        assert (scores - whole[:, *core]).abs().max() < 1e-4


def test_a_plan_covers_each_pixel_once() -> None:
    plan = tile_plan(1000, 333, tile_size=128, halo=64, grid=32)
    counts = np.zeros((1000, 333), int)
    for tile in plan:
        counts[tile.core.top : tile.core.bottom, tile.core.left : tile.core.right] += 1
        assert tile.window.top % 32 == tile.window.left % 32 == 0
        assert tile.window.bottom % 32 == 0 or tile.window.bottom == 1000
        assert tile.window.right % 32 == 0 or tile.window.right == 333
    assert (counts == 1).all()
    assert len(plan) == len(list(plan)) == 8 * 3
    assert plan.tile(1, 1) == Tile(1, 1, (128, 128, 128, 128), (64, 64, 256, 256))  # type: ignore[arg-type]
    assert plan.tile(7, 2).core_slices == (slice(64, 168), slice(64, 141))


@pytest.mark.parametrize(("tile_size", "halo"), [(100, 64), (128, 40), (0, 64), (-32, 64), (128, -32)])
def test_sizes_off_the_grid_are_an_error(tile_size: int, halo: int) -> None:
    with pytest.raises(UserError, match="multiple of 32"):
        tile_plan(1000, 1000, tile_size=tile_size, halo=halo, grid=32)


def test_finished_tiles_are_not_read() -> None:
    class Counting(InMemoryRaster):
        reads = 0

        def read(self, top: int, left: int, height: int, width: int) -> Tensor:
            self.reads += 1
            return super().read(top, left, height, width)

    raster = Counting(random_image(100, 100))
    plan = tile_plan(100, 100, tile_size=32, halo=32, grid=32)
    done = {(row, column) for row in range(4) for column in range(3)}
    found = list(class_map_tiles(lambda pixels: [pixels[0].numpy()], raster, plan, done))
    assert [(tile.row, tile.column) for tile, _, _ in found] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert raster.reads == 4


def test_an_error_of_the_raster_is_raised() -> None:
    class Broken(InMemoryRaster):
        def read(self, top: int, left: int, height: int, width: int) -> Tensor:
            raise UserError("broken")

    tiles: Iterator = class_map_tiles(
        lambda pixels: [], Broken(random_image(64, 64)), tile_plan(64, 64, tile_size=32, halo=0, grid=32)
    )
    with pytest.raises(UserError, match="broken"):
        next(tiles)


def test_the_memory_estimate_is_that_of_the_largest_layer() -> None:
    with torch.device("meta"):
        net = build("fcn32s", backbone="vgg16", num_classes=21)
    values = 2 * 64 * 512**2 + 256 * 64**2 + 512 * 32**2 + 4096 * 16**2  # conv1_2's input and output, and the maps
    assert tile_bytes(net, 512) == pytest.approx(4 * 1.35 * values + 512**2 * (64 + 4 * 21 / 32), rel=1e-3)
    assert not net.backbone.get_submodule("conv1_1")._forward_hooks


def test_more_memory_makes_larger_cores() -> None:
    net = network(BACKBONE)
    sides = [core_size(net, 128, 256, megabytes * 2**20) for megabytes in (1, 256, 1024, 1 << 20)]
    assert sides == sorted(sides)
    assert sides[0] == 256
    assert sides[-1] == 4096
    assert tile_bytes(net, sides[1] + 256) <= 2**28 < tile_bytes(net, sides[1] + 512)
    assert exact_plan(net, 9000, 9000).halo == 128
    with pytest.raises(UserError, match="multiple of 256"):
        exact_plan(net, 9000, 9000, tile_size=300)
