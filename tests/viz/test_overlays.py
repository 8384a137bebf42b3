"""Tests of palette images, overlays and their legends by their pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upscore.errors import UserError
from upscore.labels import VOID
from upscore.results import InstanceResult, SemanticResult
from upscore.viz import overlays
from upscore.viz.colormaps import class_colors, palette
from upscore.viz.overlays import heat_overlay, index_image, instance_overlay, object_colors, overlay, side_by_side

CAMVID = Path(__file__).parents[2] / "../shared/data/camvid"


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_index_image_keeps_indices_and_shows_them_in_color(tmp_path):
    class_map = np.array([[0, 1, 2], [VOID, 20, 0]])
    index_image(class_map, 21).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read), class_map)
        assert np.array_equal(np.asarray(read.convert("RGB")), palette(256)[class_map])


@pytest.mark.parametrize("value", [3, -1, 254, 1000])
def test_an_invalid_label_is_named_in_the_error(value):
    class_map = np.array([[0, value]])
    with pytest.raises(UserError, match=rf"value {value}\b"):
        index_image(class_map, 3)
    with pytest.raises(UserError, match=rf"value {value}\b"):
        overlay(random_image(1, 2), class_map, ["a", "b", "c"])


@pytest.mark.parametrize("name", ["background", "_background_", "Background", "class_0", "void", "BG"])
def test_background_is_not_coloured(name):
    image, class_map = random_image(30, 40), np.zeros((30, 40), np.uint8)
    class_map[10:20] = 1
    class_map[20:] = VOID
    drawn = np.asarray(overlay(image, class_map, [name, "cat"], legend=False))
    assert np.array_equal(drawn[:10], image[:10])
    assert np.array_equal(drawn[20:], image[20:])
    assert not np.array_equal(drawn[10:20], image[10:20])


def test_other_first_classes_are_coloured():
    image = np.full((30, 40, 3), 100, np.uint8)
    drawn = np.asarray(overlay(image, np.zeros((30, 40), np.uint8), ["Sky", "Road"], opacity=1, legend=False))
    assert (drawn == class_colors(1)[0]).all()


def test_opacity_blends_from_the_image_to_the_colors():
    image, class_map = random_image(20, 20), np.ones((20, 20), np.uint8)
    bare = np.asarray(overlay(image, class_map, ["a", "b"], opacity=0, legend=False))
    assert np.array_equal(bare, image)
    color = class_colors(2)[1].astype(int)
    distances = [
        np.abs(np.asarray(overlay(image, class_map, ["a", "b"], opacity=o, legend=False)) - color).mean()
        for o in (0, 0.3, 0.55, 0.8, 1)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == 0


@pytest.mark.parametrize("opacity", [-0.1, 55, "x", None])
def test_an_opacity_outside_0_to_1_is_rejected(opacity):
    with pytest.raises(UserError, match=f"opacity={opacity!r}"):
        overlay(random_image(4, 6), np.zeros((4, 6), np.uint8), ["a"], opacity=opacity)


def test_regions_have_a_thin_line_inside_their_border():
    image, class_map = np.full((200, 300, 3), 60, np.uint8), np.zeros((200, 300), np.uint8)
    class_map[50:150, 100:200] = 1
    drawn = np.asarray(overlay(image, class_map, ["background", "box"], legend=False)).astype(int)
    inside, line = drawn[100, 150], drawn[100, 100]
    assert line.sum() > inside.sum() + 100
    for edge in (drawn[50:150, 100], drawn[50:150, 199], drawn[50, 100:200], drawn[149, 100:200]):
        assert (edge == line).all()
    assert (drawn[51:149, 101:199] == inside).all()
    assert (drawn[class_map == 0] == 60).all()


def test_small_images_have_no_lines():
    image, class_map = np.full((64, 64, 3), 60, np.uint8), np.zeros((64, 64), np.uint8)
    class_map[20:40, 20:40] = 1
    drawn = np.asarray(overlay(image, class_map, ["background", "box"], legend=False))
    assert len(np.unique(drawn[class_map == 1], axis=0)) == 1


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(1, 1, 256), (48, 64, 4), (256, 256, 1), (1080, 1920, 1), (40, 6000, 1)]
)
def test_the_legend_is_below_the_image_and_small_images_are_enlarged(height, width, factor):
    image, class_map = random_image(height, width), np.zeros((height, width), np.uint8)
    drawn = overlay(image, class_map, ["background", "cat"])
    assert drawn.mode == "RGB"
    assert drawn.width == width * factor
    assert height * factor < drawn.height < height * factor + 0.2 * max(drawn.size) + 50
    top = np.asarray(drawn)[: height * factor]
    assert np.array_equal(top, image.repeat(factor, 0).repeat(factor, 1))


def test_the_legend_of_a_narrow_image_is_wider():
    drawn = overlay(random_image(900, 10), np.zeros((900, 10), np.uint8), ["background"])
    assert drawn.width == overlays.READABLE_WIDTH
    assert 900 < drawn.height < 1000


def legend_of(image, class_map, classes):
    drawn = np.asarray(overlay(image, class_map, classes))
    return drawn[len(image) :]


def test_the_legend_has_the_classes_by_descending_share():
    class_map = np.full((300, 300), 2, np.uint8)
    class_map[:100] = 4
    class_map[:20] = VOID
    strip = legend_of(random_image(300, 300), class_map, ["a", "b", "c", "d", "e"])
    colors = class_colors(5)
    left = [np.flatnonzero((strip == color).all(-1).any(0)) for color in colors]
    assert [len(columns) > 5 for columns in left] == [False, False, True, False, True]
    assert left[2].min() < left[4].min()


def test_a_legend_of_many_long_names_wraps_and_stays_inside():
    class_map = np.arange(40, dtype=np.uint8).repeat(20)[:, None].repeat(400, 1)
    strip = legend_of(
        random_image(800, 400), class_map, [f"a rather long name, number {k}, that goes on " * 3 for k in range(40)]
    )
    assert len(strip) > 40 * 12
    assert (strip[:, -5:] == overlays.BACKGROUND).all()
    for color in class_colors(40):
        assert (strip == color).all(-1).sum() > 50


def test_names_outside_ascii_are_drawn():
    """A missing letter is drawn as a box, the same for every letter."""
    image, class_map = random_image(256, 256), np.zeros((256, 256), np.uint8)
    first, second = (legend_of(image, class_map, [name]) for name in ("Bär", "Bör"))
    assert not np.array_equal(first, second)


def test_a_map_of_another_size_is_rejected():
    with pytest.raises(UserError, match=r"class map.*\(2, 3\).*\(4, 6\)"):
        overlay(random_image(4, 6), np.zeros((2, 3), np.uint8), ["a"])
    with pytest.raises(UserError, match=r"heat map.*\(2, 3\)"):
        heat_overlay(random_image(4, 6), np.zeros((2, 3)), "cat")


def test_semantic_results_draw_their_overlay():
    image, class_map = random_image(300, 400), np.zeros((300, 400), np.uint8)
    class_map[100:] = 1
    prediction = SemanticResult(class_map=class_map, classes=["sky", "sea"], image=image)
    assert prediction.overlay(0.3).tobytes() == overlay(image, class_map, ["sky", "sea"], opacity=0.3).tobytes()


def test_heat_is_transparent_at_0_and_brighter_for_higher_values():
    image = np.full((300, 300, 3), 40, np.uint8)
    heat = np.linspace(-0.5, 1.5, 300)[None].repeat(300, 0)
    heat[0, 0] = np.nan
    drawn = np.asarray(heat_overlay(image, heat, "tabby"))[:300].astype(int)
    assert (drawn[:, :75] == 40).all()
    assert (drawn[:, 225:] == drawn[0, 299]).all()
    light = np.asarray(Image.fromarray(drawn.astype(np.uint8)).convert("L"))[0].astype(int)
    assert (np.diff(light[120:225]) >= 0).all()
    assert light[299] > 180


def test_pictures_in_a_row_have_one_height_and_keep_their_shapes():
    red, blue = Image.new("RGB", (200, 100), "red"), Image.new("P", (300, 300))
    row = np.asarray(side_by_side([red, blue], ["first", "second"]))
    is_red, is_black = (row == (255, 0, 0)).all(-1), (row == 0).all(-1)
    assert (np.ptp(np.flatnonzero(is_red.any(1))) + 1, np.ptp(np.flatnonzero(is_red.any(0))) + 1) == (300, 600)
    assert (np.ptp(np.flatnonzero(is_black.any(1))) + 1, np.ptp(np.flatnonzero(is_black.any(0))) + 1) == (300, 300)
    assert np.array_equal(is_red.any(1), is_black.any(1))


def test_the_width_of_pictures_side_by_side_is_limited():
    row = side_by_side([Image.new("L", (3000, 1)), Image.new("L", (1, 3000))], ["wide", "high"])
    assert row.width < 1.1 * overlays.MAX_SIDE
    assert row.height < 100
    with pytest.raises(UserError, match="images"):
        side_by_side([], [])


def test_real_labels_are_drawn_in_color():
    if not CAMVID.is_dir():
        pytest.skip("../shared/data/camvid is missing")
    classes = (CAMVID / "classes.txt").read_text().split()
    label = sorted((CAMVID / "val/labels").glob("*.png"))[40]
    class_map = np.asarray(Image.open(label))
    image = np.asarray(Image.open(CAMVID / "val/images" / f"{label.stem}.jpg"))
    drawn = np.asarray(overlay(image, class_map, classes))[: len(image)].astype(int)
    sky = drawn[class_map == 0].mean(0)
    assert sky[2] > sky[0] + 40
    assert np.array_equal(drawn[class_map == VOID], image[class_map == VOID])


def make_instances(*boxes, size=(300, 400), labels=None):
    count = len(boxes)
    return InstanceResult(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.95, 0.5, count, dtype=np.float32),
        labels=np.zeros(count, np.int64) if labels is None else np.array(labels),
        masks=[np.ones((28, 28), np.float32)] * count,
        size=size,
        classes=["cell"],
    )


IMAGE = np.full((300, 400, 3), 120, np.uint8)
LEFT, RIGHT = (40, 60, 160, 220), (160, 60, 290, 220)


def test_every_object_has_its_own_colour_and_the_rest_is_the_image():
    picture = np.array(instance_overlay(IMAGE, make_instances(LEFT, RIGHT), ["cell"], legend=False))
    assert picture.shape == IMAGE.shape
    left, right, beside = picture[180, 100], picture[180, 230], picture[20, 20]
    assert np.abs(left.astype(int) - right).sum() > 60
    assert (beside == 120).all()
    assert np.abs(left.astype(int) - 120).sum() > 30


def test_neighbours_have_different_colours():
    grid = np.array([[x, y, x + 11, y + 11] for y in range(0, 200, 10) for x in range(0, 200, 10)], np.float64)
    colors = object_colors(grid)
    for index, box in enumerate(grid):
        near = (np.abs(grid[:, :2] - box[:2]) <= 10).all(1)
        near[index] = False
        assert not (colors[near] == colors[index]).all(1).any()


def test_small_objects_are_in_front_of_large_ones():
    around, inside = (20, 20, 380, 280), (200, 150, 250, 200)
    both = np.array(instance_overlay(IMAGE, make_instances(around, inside), ["cell"], legend=False))
    alone = np.array(instance_overlay(IMAGE, make_instances(around), ["cell"], legend=False))
    changed = (both != alone).any(-1)
    assert changed[152:198, 202:248].all()
    changed[149:201, 199:251] = False
    assert not changed.any()


def test_only_large_objects_are_labelled():
    large = np.array(instance_overlay(IMAGE, make_instances((40, 60, 360, 280)), ["cell"], legend=False))
    middle, corner = large[150:200, 150:250], large[60:80, 40:120]
    assert len(np.unique(middle.reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(corner.reshape(-1, 3), axis=0)) > 5
    small = np.array(instance_overlay(IMAGE, make_instances((40, 60, 60, 80)), ["cell"], legend=False))
    assert len(np.unique(small[60:80, 40:60].reshape(-1, 3), axis=0)) <= 3


def test_the_legend_counts_the_objects():
    none = instance_overlay(IMAGE, make_instances(), ["cell", "nerve"])
    some = instance_overlay(IMAGE, make_instances(LEFT, RIGHT, labels=[1, 0]), ["cell", "nerve"])
    assert none.width == some.width == 400
    assert some.height > 300
    assert np.array_equal(np.array(none)[:300], IMAGE)


def test_small_images_are_enlarged_for_their_legend():
    picture = instance_overlay(IMAGE[:64, :64], make_instances((5, 5, 30, 30), size=(64, 64)), ["cell"])
    assert picture.width == 256


def test_instance_results_draw_their_overlay():
    result = make_instances(LEFT)
    result.image = IMAGE
    assert np.array_equal(np.array(result.overlay()), np.array(instance_overlay(IMAGE, make_instances(LEFT), ["cell"])))


def test_invalid_arguments_are_rejected():
    with pytest.raises(UserError, match="resized"):
        instance_overlay(IMAGE[:100], make_instances(LEFT), ["cell"])
    with pytest.raises(UserError, match="opacity"):
        instance_overlay(IMAGE, make_instances(LEFT), ["cell"], opacity=2)
