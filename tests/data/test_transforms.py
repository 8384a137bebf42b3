"""Joint transforms of images and labels: alignment, void, and reproducibility by a seed."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upscore.annotations import ObjectAnnotations
from upscore.data.resizing import resize_longest, resize_to
from upscore.data.samples import Sample
from upscore.data.transforms import FILL, PAPER, Augmentation, collate
from upscore.errors import UserError
from upscore.labels import VOID

EVERYTHING = Augmentation(scale=(0.5, 2.0), crop=(48, 40), flip=0.5, colour=0.4)


def random_sample(height, width, seed=0):
    """Return a sample of noise with the labels 0, 3, 7 and void."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    class_map = torch.tensor([0, 3, 7, VOID], dtype=torch.uint8)[
        torch.randint(0, 4, (height, width), generator=generator)
    ]
    id_map = torch.randint(0, 70_000, (height, width), generator=generator, dtype=torch.int32)
    return Sample(name="random", image=image, class_map=class_map, objects=ObjectAnnotations.from_id_map(id_map))


def same(one, other):
    return (
        torch.equal(one.image, other.image)
        and torch.equal(one.class_map, other.class_map)
        and torch.equal(one.objects.id_map, other.objects.id_map)
        and torch.equal(one.objects.boxes, other.objects.boxes)
    )


def ramp(height, width):
    """Return a sample in which red is the row, green the column, and the object number row * 256 + column."""
    rows = torch.arange(height, dtype=torch.int32)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.int32)[None, :].expand(height, width)
    image = torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)
    class_map = (rows % 5).to(torch.uint8)
    return Sample(
        name="ramp", image=image, class_map=class_map, objects=ObjectAnnotations.from_id_map(rows * 256 + columns)
    )


def misalignment(sample):
    """Return the differences in row and in column between the image and the id map, for labelled inner pixels."""
    labelled = sample.class_map != VOID
    inner = torch.zeros_like(labelled)
    inner[4:-4, 4:-4] = labelled[4:-4, 4:-4]
    rows = sample.image[0].int() - sample.objects.id_map[0] // 256
    columns = sample.image[1].int() - sample.objects.id_map[0] % 256
    return [values[inner].float() for values in (rows, columns)]


@pytest.mark.parametrize("seed", range(12))
def test_augmentation_keeps_labels_aligned(seed):
    augmentation = Augmentation(scale=(0.4, 3.0), crop=(61, 75), flip=0.5)
    for differences in misalignment(augmentation(ramp(200, 240), seed)):
        assert len(differences) > 0
        # Nearest neighbours differ from the image by up to half a pixel and its rounding; a mean would be a shift.
        assert differences.abs().max() <= 1
        assert differences.mean().abs() < 0.3


@pytest.mark.parametrize("max_side", [119, 120, 97, 60, 31])
def test_reduction_keeps_labels_aligned(max_side):
    factor = 240 / max_side
    for differences in misalignment(resize_longest(ramp(240, 240), max_side)):
        assert differences.abs().max() <= 1
        assert differences.mean().abs() <= 0.5, factor


def test_labels_reduced_to_a_third_are_those_of_the_centre_pixels():
    sample = ramp(240, 150)
    reduced = resize_longest(sample, 80)
    assert torch.equal(reduced.objects.id_map, sample.objects.id_map[:, 1::3, 1::3])
    assert all((differences == 0).all() for differences in misalignment(reduced))


def test_doubling_repeats_each_label():
    sample = random_sample(9, 7)
    doubled = Augmentation(scale=(2.0, 2.0))(sample, 0)
    assert torch.equal(doubled.class_map, sample.class_map.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert doubled.image.shape == (3, 18, 14)


def test_labels_match_colours_after_augmentation():
    palette = torch.tensor([[10, 200, 60], [240, 20, 120], [90, 90, 250]], dtype=torch.uint8)
    class_map = torch.zeros(120, 120, dtype=torch.uint8)
    class_map[20:70, 10:60], class_map[50:110, 40:115] = 1, 2
    sample = Sample(name="blocks", image=palette[class_map.long()].permute(2, 0, 1), class_map=class_map)
    for seed in range(20):
        out = Augmentation(scale=(0.6, 1.9), crop=(100, 90), flip=0.5)(sample, seed)
        labels = out.class_map.float()[None, None]
        highest = torch.nn.functional.max_pool2d(labels, 7, 1, 3)[0, 0]
        lowest = -torch.nn.functional.max_pool2d(-labels, 7, 1, 3)[0, 0]
        interior = (highest == lowest) & (out.class_map != VOID)
        assert interior.sum() > 500
        expected = palette[out.class_map[interior].long()].int()
        assert (out.image.permute(1, 2, 0)[interior].int() - expected).abs().max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    crop=st.none() | st.tuples(st.integers(1, 90), st.integers(1, 90)),
    low=st.floats(0.02, 1.5),
    ratio=st.floats(1.0, 2.0),
    seed=st.integers(0, 2**62),
)
def test_no_new_labels_appear_and_padding_is_void(height, width, crop, low, ratio, seed):
    sample = random_sample(height, width)
    out = Augmentation(scale=(low, low * ratio), crop=crop, flip=0.5, colour=0.5)(sample, seed)
    if crop is not None:
        assert out.image.shape[1:] == crop
    assert out.image.shape[1:] == out.class_map.shape == out.objects.size
    assert min(out.class_map.shape) >= 1
    assert (out.image.dtype, out.class_map.dtype, out.objects.id_map[0].dtype) == (
        torch.uint8,
        torch.uint8,
        torch.int32,
    )
    assert set(out.class_map.unique().tolist()) <= set(sample.class_map.unique().tolist()) | {VOID}
    assert set(out.objects.id_map[0].unique().tolist()) <= set(sample.objects.id_map[0].unique().tolist()) | {0}


def test_void_stays_void_and_padding_is_at_the_bottom_right():
    sample = random_sample(20, 30)
    sample.class_map.fill_(2)
    out = Augmentation(crop=(25, 40))(sample, 3)
    assert (out.class_map[:20, :30] == 2).all()
    assert torch.equal(out.image[:, :20, :30], sample.image)
    assert (out.class_map[20:] == VOID).all()
    assert (out.class_map[:, 30:] == VOID).all()
    assert (out.objects.id_map[0][20:] == 0).all()
    assert (out.image[:, 20:].permute(1, 2, 0) == torch.tensor(FILL)).all()
    for seed in range(4):
        out = Augmentation(crop=(25, 40), flip=0.5, colour=1.0)(sample, seed)
        assert (out.image[:, 20:].permute(1, 2, 0) == torch.tensor(FILL)).all()
        assert torch.equal(
            out.class_map == VOID, (out.image == torch.tensor(FILL, dtype=torch.uint8)[:, None, None]).all(0)
        )
    sample.class_map.fill_(VOID)
    assert (EVERYTHING(sample, 3).class_map == VOID).all()


def test_crops_are_windows_at_every_position():
    sample = ramp(12, 9)
    corners = set()
    for seed in range(400):
        out = Augmentation(crop=(10, 8))(sample, seed)
        top, left = divmod(int(out.objects.id_map[0][0, 0]), 256)
        corners.add((top, left))
        assert torch.equal(out.image, sample.image[:, top : top + 10, left : left + 8])
        assert torch.equal(out.objects.id_map[0], sample.objects.id_map[0, top : top + 10, left : left + 8])
    assert corners == {(top, left) for top in range(3) for left in range(2)}


def test_scale_is_log_uniform_between_its_ends():
    sample = Sample(name="line", image=torch.zeros(3, 1000, 1, dtype=torch.uint8))
    heights = torch.tensor([Augmentation(scale=(0.25, 4.0))(sample, seed).image.shape[1] for seed in range(300)])
    assert heights.min() >= 250
    assert heights.max() <= 4000
    assert abs((heights < 1000).float().mean() - 0.5) < 0.1
    assert abs((heights < 500).float().mean() - 0.25) < 0.1


def test_flips_mirror_all_fields_with_the_given_probability():
    sample = random_sample(5, 8)
    always = Augmentation(flip=1.0)
    assert torch.equal(always(sample, 0).image, sample.image.flip(-1))
    assert torch.equal(always(sample, 0).class_map, sample.class_map.flip(-1))
    assert same(always(always(sample, 0), 1), sample)
    mirrored = [not same(Augmentation(flip=0.3)(sample, seed), sample) for seed in range(400)]
    assert abs(sum(mirrored) / 400 - 0.3) < 0.08


def test_the_papers_augmentation_is_the_identity():
    assert all(same(PAPER(random_sample(7, 11), seed), random_sample(7, 11)) for seed in range(5))


def test_colour_jitter_grows_with_its_strength_and_keeps_labels():
    sample = random_sample(40, 40)
    changes = []
    for colour in (0.0, 0.1, 0.4, 1.0):
        outs = [Augmentation(colour=colour)(sample, seed) for seed in range(10)]
        assert all(torch.equal(out.class_map, sample.class_map) for out in outs)
        changes.append(sum((out.image.float() - sample.image).abs().mean().item() for out in outs))
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert changes[1] > 10


def test_inputs_are_not_modified():
    sample, untouched = random_sample(50, 60), random_sample(50, 60)
    for seed in range(10):
        EVERYTHING(sample, seed)
    resize_longest(sample, 20)
    collate([sample, random_sample(70, 20)])
    assert same(sample, untouched)


def test_an_option_does_not_change_the_draws_of_others():
    plain = Augmentation(scale=(0.5, 2.0), crop=(30, 30))
    coloured = Augmentation(scale=(0.5, 2.0), crop=(30, 30), colour=0.5)
    for seed in range(5):
        assert torch.equal(
            plain(random_sample(50, 60), seed).class_map, coloured(random_sample(50, 60), seed).class_map
        )


def test_augmentation_depends_only_on_the_seed():
    sample = random_sample(64, 80)
    state = torch.get_rng_state()
    first = EVERYTHING(sample, 42)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert same(EVERYTHING(sample, 42), first)
    assert not same(EVERYTHING(sample, 43), first)


def digest(threads):
    torch.set_num_threads(threads)
    augmentation = Augmentation(scale=(0.5, 2.0), crop=(300, 280), flip=0.5, colour=0.8)
    outs = [augmentation(random_sample(400, 420), seed) for seed in range(4)]
    return hashlib.sha256(b"".join(out.image.contiguous().numpy().tobytes() for out in outs)).hexdigest()


def test_augmentation_does_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    try:
        assert digest(1) == digest(2)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_augmentation_is_the_same_in_another_process():
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from {Path(__file__).stem} import digest\n"
        "print(digest(1))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(1)


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((100, 50), 0, (100, 50)),
        ((100, 50), 100, (100, 50)),
        ((100, 50), 99, (99, 50)),
        ((50, 101), 25, (12, 25)),
        ((1, 900), 10, (1, 10)),
        ((900, 2), 10, (10, 1)),
        ((1, 1), 1, (1, 1)),
    ],
)
def test_resize_longest(size, max_side, expected):
    out = resize_longest(random_sample(*size), max_side)
    assert out.image.shape[1:] == out.class_map.shape == out.objects.size == expected


def test_a_single_column_is_resized_like_a_wide_image():
    column = random_sample(40, 1)
    wide = Sample(name="wide", image=column.image.expand(3, 40, 40))
    narrow = Augmentation(scale=(0.5, 0.5))(column, 0).image
    assert narrow.shape == (3, 20, 1)
    assert (narrow.int() - resize_longest(wide, 20).image[:, :, :1].int()).abs().max() <= 1


def test_reduction_is_antialiased():
    stripes = torch.zeros(3, 90, 90, dtype=torch.uint8)
    stripes[:, :, ::2] = 200
    reduced = resize_longest(Sample(name="stripes", image=stripes), 18).image[:, :, 1:-1]
    assert (reduced.int() - 100).abs().max() <= 25


def test_collate_pads_to_the_common_size():
    samples = [random_sample(3, 8), random_sample(1, 1), random_sample(6, 2)]
    batch = collate(samples)
    assert (batch.images.shape, batch.images.dtype) == ((3, 3, 6, 8), torch.uint8)
    assert (batch.class_maps.shape, batch.class_maps.dtype) == ((3, 6, 8), torch.uint8)
    assert batch.sizes == [(3, 8), (1, 1), (6, 2)]
    assert batch.names == ["random"] * 3
    for sample, image, class_map in zip(samples, batch.images, batch.class_maps, strict=True):
        height, width = sample.class_map.shape
        assert torch.equal(image[:, :height, :width], sample.image)
        assert torch.equal(class_map[:height, :width], sample.class_map)
        outside = torch.ones(6, 8, dtype=torch.bool)
        outside[:height, :width] = False
        assert (class_map[outside] == VOID).all()
        assert (image.permute(1, 2, 0)[outside] == torch.tensor(FILL)).all()


def test_collate_without_labels():
    bare = Sample(name="bare", image=torch.zeros(3, 4, 4, dtype=torch.uint8))
    assert collate([bare, bare]).class_maps is None
    mixed = collate([bare, random_sample(2, 5)])
    assert (mixed.class_maps[0] == VOID).all()
    assert torch.equal(mixed.class_maps[1, :2, :5], random_sample(2, 5).class_map)


def test_unlabelled_samples_are_transformed():
    bare = Sample(name="bare", image=random_sample(30, 41).image)
    out = EVERYTHING(resize_longest(bare, 20), 1)
    assert out.class_map is None
    assert out.objects is None
    assert out.image.shape == (3, 48, 40)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": (2.0, 0.5)}, "scale="),
        ({"scale": (0.0, 1.0)}, "scale="),
        ({"scale": (1.0, 1e6)}, "scale="),
        ({"crop": (0, 5)}, "crop="),
        ({"flip": 1.5}, "flip=1.5"),
        ({"colour": float("nan")}, "colour=nan"),
        ({"min_visible": 1.5}, "min_visible=1.5"),
    ],
)
def test_invalid_options_are_named(options, words):
    with pytest.raises(UserError, match=words):
        Augmentation(**options)


def test_a_negative_max_side_is_named():
    with pytest.raises(UserError, match="max_side=-1"):
        resize_longest(random_sample(4, 4), -1)


def overlapping():
    """Return a sample with objects of 40x40, 40x40 and 4x4 pixels; the first two overlap."""
    masks = torch.zeros(3, 100, 120, dtype=torch.bool)
    masks[0, 10:50, 10:50] = masks[1, 30:70, 30:70] = masks[2, 90:94, 100:104] = True
    objects = ObjectAnnotations.from_masks(masks, torch.tensor([4, 5, 6]), torch.tensor([False, True, False]))
    return Sample(name="objects", image=random_sample(100, 120).image, objects=objects)


@pytest.mark.parametrize("seed", range(8))
def test_overlapping_objects_are_transformed_like_single_ones(seed):
    sample = overlapping()
    augmentation = Augmentation(scale=(0.4, 2.5), crop=(60, 70), flip=0.5)
    out = augmentation(sample, seed).objects
    numbers = out.ids.tolist()
    for position, number in enumerate(sample.objects.ids.tolist()):
        alone = Sample(name="one", image=sample.image, class_map=sample.objects.bitmask(position).to(torch.uint8))
        expected = augmentation(alone, seed).class_map == 1
        assert (number in numbers) == bool(expected.any())
        if number in numbers:
            index = numbers.index(number)
            assert torch.equal(out.bitmask(index), expected)
            assert out.areas[index] == expected.sum()
            rows, columns = expected.nonzero().unbind(1)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert out.boxes[index].tolist() == [float(side) for side in box]
            assert (out.labels[index], out.crowd[index]) == (
                sample.objects.labels[position],
                sample.objects.crowd[position],
            )


def test_objects_are_measured_once_in_an_augmentation(monkeypatch):
    calls = []
    transformed = ObjectAnnotations.transformed
    monkeypatch.setattr(ObjectAnnotations, "transformed", lambda self, move: calls.append(1) or transformed(self, move))
    Augmentation(scale=(0.5, 2.0), crop=(130, 130), flip=1.0, min_visible=0.1)(overlapping(), 0)
    assert len(calls) == 1


def test_objects_with_a_small_visible_share_are_dropped():
    sample = overlapping()
    kept = []
    for seed in range(60):
        options = {"crop": (48, 48), "scale": (0.9, 0.9)}
        everything = Augmentation(**options)(sample, seed).objects
        visible = Augmentation(**options, min_visible=0.5)(sample, seed).objects
        assert torch.equal(visible.id_map, everything.id_map)
        whole = {number: area * 0.81 for number, area in zip([1, 2, 3], [1600, 1600, 16], strict=True)}
        shares = {
            n: float(a) / whole[n] for n, a in zip(everything.ids.tolist(), everything.areas, strict=True) if n < 3
        }
        for number, share in shares.items():
            if abs(share - 0.5) > 0.04:  # closer shares depend on resampling
                assert (number in visible.ids.tolist()) == (share > 0.5)
                kept.append(share > 0.5)
    assert {True, False} == set(kept)


def test_resize_to():
    sample = overlapping()
    out = resize_to(sample, (50, 60))
    assert out.image.shape == (3, 50, 60)
    assert out.objects.boxes.tolist() == [[5, 5, 25, 25], [15, 15, 35, 35], [50, 45, 52, 47]]
    assert resize_to(sample, (100, 120)) is sample
    assert torch.equal(
        resize_to(random_sample(30, 20), (15, 10)).image, resize_longest(random_sample(30, 20), 15).image
    )
    with pytest.raises(UserError, match=r"size=\(0, 5\)"):
        resize_to(sample, (0, 5))


def test_collate_keeps_objects_at_their_own_size():
    bare = Sample(name="bare", image=torch.zeros(3, 4, 6, dtype=torch.uint8))
    sample = overlapping()
    batch = collate([bare, sample])
    assert batch.class_maps is None
    assert (len(batch.objects[0]), batch.objects[0].size) == (0, (4, 6))
    assert batch.objects[1] is sample.objects
    assert collate([bare]).objects is None


def sample_with_depth(height: int = 24, width: int = 32) -> Sample:
    """Return a sample whose depth and geometric map have the values of the image."""
    values = torch.randint(0, 256, (height // 4, width // 4), generator=torch.Generator().manual_seed(0))
    values = values.repeat_interleave(4, 0).repeat_interleave(4, 1)
    depth = values[None].float()
    depth[:, 4:8, 8:12] = torch.nan
    return Sample(
        name="depth",
        image=values.to(torch.uint8).expand(3, -1, -1).clone(),
        class_map=(values % 7).to(torch.uint8),
        geometric_map=(values % 3).to(torch.uint8),
        depth=depth,
    )


def test_mirror_and_crop_move_all_fields() -> None:
    sample = sample_with_depth()
    moved = Augmentation(flip=1.0, crop=(20, 40))(sample, seed=3)
    assert moved.depth is not None
    assert moved.geometric_map is not None
    assert moved.class_map is not None
    assert moved.depth.shape == (1, 20, 40)
    inside = moved.class_map != VOID
    assert inside.sum() == 20 * 32
    known = inside & moved.depth[0].isfinite()
    assert torch.equal(moved.depth[0][known], moved.image[0][known].float())
    assert torch.equal(moved.geometric_map[inside], moved.image[0][inside] % 3)
    assert (moved.geometric_map[~inside] == VOID).all()
    assert moved.depth[0][~inside].isnan().all()
    mirrored = Augmentation(flip=1.0)(sample, seed=3)
    assert mirrored.depth is not None
    assert sample.depth is not None
    assert torch.equal(mirrored.depth.nan_to_num(-1), sample.depth.flip(-1).nan_to_num(-1))


@pytest.mark.parametrize("size", [(48, 64), (12, 16), (6, 8), (17, 5), (24, 1), (1, 1)])
def test_depth_is_resized_like_the_image_and_unknown_pixels_stay_unknown(size: tuple[int, int]) -> None:
    sample = sample_with_depth()
    resized = resize_to(sample, size)
    assert resized.depth is not None
    assert resized.geometric_map is not None
    assert resized.depth.shape == (1, *size)
    assert resized.geometric_map.shape == size
    whole = resize_to(replace(sample, depth=sample.image[:1].float()), size)
    assert whole.depth is not None
    assert whole.depth.isfinite().all()
    if min(size) > 1:
        assert (whole.depth - whole.image[:1].float()).abs().max() <= 1
        share = resized.depth.isnan().float().mean().item()
        assert share == pytest.approx(16 / (24 * 32), abs=0.02)
        middle = round(6 / 24 * size[0] - 0.5), round(10 / 32 * size[1] - 0.5)
        assert resized.depth[0][middle].isnan()
        assert resized.depth.nan_to_num(0).max() <= 255


def test_batches_have_all_fields_and_fill_missing_ones() -> None:
    full, bare = sample_with_depth(24, 32), replace(sample_with_depth(16, 40), depth=None, geometric_map=None)
    batch = collate([bare, full])
    assert batch.depth is not None
    assert batch.geometric_maps is not None
    assert batch.depth.shape == (2, 1, 24, 40)
    assert batch.depth[0].isnan().all()
    assert batch.depth[1, :, :, 32:].isnan().all()
    assert (batch.geometric_maps[0] == VOID).all()
    assert (batch.geometric_maps[1, :, 32:] == VOID).all()
    assert (batch.geometric_maps[1, :, :32] != VOID).all()
    assert collate([bare]).depth is None
    assert collate([bare]).geometric_maps is None
