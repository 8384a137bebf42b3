"""Superpixel methods and features of segments.

S segments, R regions of a graph, n regions of a part of it; H W pixels of an image, h w of the reduced image.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image
from scipy.cluster.vq import kmeans2, vq
from scipy.linalg import eigh
from skimage import graph, segmentation
from skimage.color import rgb2gray, rgb2lab
from skimage.filters import sobel

from upscore.errors import UserError
from upscore.warning_filters import ignored_warnings

Method = Literal["felzenszwalb", "slic", "quickshift", "watershed", "ncut", "kmeans"]

METHODS: tuple[Method, ...] = get_args(Method)

MAX_SIDE = 512
"""Default longest side in pixels of an image that is segmented; larger images are reduced."""

MAX_SEGMENTS, MAX_CUTS = 10_000, 1_000
"""Largest number of segments, and of segments by normalized cuts."""

TRIES, TOLERANCE = 5, 0.1
"""Largest number of runs of a method with a scale parameter, and the logarithm of the ratio of numbers that ends it."""

FARTHEST = 10**9
"""Search distance of quickshift that exceeds all distances in an image, so that every pixel has a parent."""

CUT_REGIONS = 400
"""Normalized cuts start from 4 times the number of segments, at most this number of regions, but at least 2 times."""

SAMPLED_COLORS = 20_000
"""Number of pixels, evenly spaced, to which k-means is fitted."""

FEATURES = (
    "lightness",
    "green to red",
    "blue to yellow",
    "spread of lightness",
    "spread of green to red",
    "spread of blue to yellow",
    "strength of edges",
    "logarithm of the share of the image",
    "vertical position",
    "horizontal distance from the centre",
)
"""Names of the features of a segment."""


def segment(
    image: np.ndarray, method: Method = "slic", segments: int = 100, *, max_side: int = MAX_SIDE, seed: int = 0
) -> np.ndarray:
    """Partition an image into segments.

    Methods, where S is the number of segments:

    - slic: k-means over colour and position, starting from a grid. Small regions are merged, so the size of the grid is
      adjusted in several runs.
    - watershed: watershed of the Sobel edges from one marker in each cell of a grid; S differs from `segments` by the
      rounding of the grid only.
    - felzenszwalb: greedy merging of adjacent regions; its scale is adjusted in several runs.
    - quickshift: each pixel is linked to the nearest one with a higher density of colour and position; the longest
      links are removed until there are `segments` trees. S is larger if there are more trees at the start.
    - ncut: normalized cuts of the graph of 2 to 4 times as many regions of SLIC; S equals `segments` unless SLIC
      returns fewer regions.
    - kmeans: k-means over colours in Lab; segments are not connected.

    Args:
        image: (H, W, 3) uint8, RGB.
        method: one of `METHODS`.
        segments: requested number of segments.
        max_side: larger images are reduced to this longest side in pixels, and their segments enlarged by
            nearest-neighbour interpolation; 0 means never.
        seed: the same seed gives the same segments.

    Returns:
        (H, W) int32, segments from 0 to S - 1.

    Raises:
        UserError: `segments` is not in 1..10,000 (ncut: 1..1,000), or `max_side` or `seed` is negative.
    """
    check_options(method, segments, max_side, seed)
    height, width = image.shape[:2]
    small = reduce(image, max_side)
    pixels = small.shape[0] * small.shape[1]
    if segments == 1 or pixels == 1:
        return np.zeros((height, width), np.int32)
    return resize_labels(renumber(_cluster(small, method, min(segments, pixels), seed)), (height, width))


def check_options(method: Method, segments: int, max_side: int, seed: int) -> None:
    """Check the options of `segment`.

    Raises:
        UserError: an option is out of its range.
    """
    limit = MAX_CUTS if method == "ncut" else MAX_SEGMENTS
    if not 1 <= segments <= limit:
        raise UserError(f"--segments {segments} is invalid for {method}: give a number from 1 to {limit:,}")
    if max_side < 0 or seed < 0:
        raise UserError(f"max_side={max_side} and seed={seed} must not be negative: give 0 or more")


def reduce(image: np.ndarray, max_side: int) -> np.ndarray:
    """Reduce an image (H, W, 3) to a longer side of at most `max_side` pixels; 0 means no limit."""
    height, width = image.shape[:2]
    if not max_side or max(height, width) <= max_side:
        return image
    factor = max_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize labels (h, w) to a size (H, W) by nearest-neighbour interpolation."""
    height, width = size
    if labels.shape == size:
        return labels
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def renumber(labels: np.ndarray) -> np.ndarray:
    """Renumber labels (H, W) from 0 to S - 1 in the same order, as int32."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def segment_features(image: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Compute the features of segments.

    Colours are means in Lab, spreads are their standard deviations, and edges are the mean of the Sobel filter. The
    vertical position is from 0 (top) to 1, the horizontal distance from 0 (centre) to 0.5.

    Args:
        image: (H, W, 3) uint8.
        segments: (H, W) segments, 0 to S - 1.

    Returns:
        (S, 10) float32, with the columns `FEATURES`.
    """
    height, width = segments.shape
    flat = segments.ravel()
    sizes = np.bincount(flat)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(flat, weights=values.ravel()) / sizes

    lab = rgb2lab(image)
    colors = [mean(lab[..., channel]) for channel in range(3)]
    squares = [mean(lab[..., channel] ** 2) for channel in range(3)]
    spreads = [np.sqrt(np.maximum(square - color**2, 0)) for color, square in zip(colors, squares, strict=True)]
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    x = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    columns = [
        *colors,
        *spreads,
        mean(sobel(rgb2gray(image))),
        np.log(sizes / flat.size),
        mean(y),
        np.abs(mean(x) - 0.5),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _cluster(image: np.ndarray, method: Method, segments: int, seed: int) -> np.ndarray:
    match method:
        case "slic":
            return _slic(image, segments)
        case "watershed":
            return _watershed(image, segments)
        case "felzenszwalb":
            return _felzenszwalb(image, segments)
        case "quickshift":
            return _quickshift(image, segments, seed)
        case "ncut":
            return _normalized_cut(image, segments)
        case "kmeans":
            return _kmeans(image, segments, seed)


def _slic(image: np.ndarray, segments: int) -> np.ndarray:
    return _search_scale(lambda cells: _grid(image, max(1, round(cells))), segments, start=float(segments), power=-1.0)


def _grid(image: np.ndarray, cells: int) -> np.ndarray:
    return segmentation.slic(image, n_segments=cells, compactness=10, start_label=0)


def _watershed(image: np.ndarray, segments: int) -> np.ndarray:
    """Start from the lowest pixel of each cell of a grid, and from the one nearest to the centre of equal ones."""
    height, width = image.shape[:2]
    heights = sobel(rgb2gray(image))
    rows = int(np.clip(round((segments * height / width) ** 0.5), 1, min(height, segments)))
    columns = int(np.clip(round(segments / rows), 1, width))
    y, x = (np.arange(height) + 0.5) * rows / height, (np.arange(width) + 0.5) * columns / width
    cells = (y.astype(int)[:, None] * columns + x.astype(int)).ravel()
    from_centre = ((y % 1 - 0.5)[:, None] ** 2 + (x % 1 - 0.5) ** 2).ravel()
    order = np.lexsort((from_centre, heights.ravel().round(4), cells))
    _, first = np.unique(cells[order], return_index=True)
    markers = np.zeros(height * width, np.int32)
    markers[order[first]] = 1 + np.arange(len(first))
    return segmentation.watershed(heights, markers=markers.reshape(height, width))


def _felzenszwalb(image: np.ndarray, segments: int) -> np.ndarray:
    area = image.shape[0] * image.shape[1] / segments
    smallest = int(area / 20)
    return _search_scale(
        lambda scale: segmentation.felzenszwalb(image, scale=scale, sigma=0.8, min_size=smallest),
        segments,
        start=0.4 * area,
        power=1.0,
    )


def _quickshift(image: np.ndarray, segments: int, seed: int) -> np.ndarray:
    height, width = image.shape[:2]
    kernel = int(np.clip(round(0.12 * (height * width / segments) ** 0.5), 1, 6))
    _, parents, climbs = segmentation.quickshift(
        image, kernel_size=kernel, max_dist=FARTHEST, ratio=1.0, return_tree=True, rng=seed
    )
    parents, climbs = np.asarray(parents).ravel().astype(np.int64), np.asarray(climbs).ravel()
    longest = np.argsort(-climbs, kind="stable")[:segments]
    parents[longest] = longest
    while not np.array_equal(above := parents[parents], parents):
        parents = above
    return parents.reshape(height, width)


def _normalized_cut(image: np.ndarray, segments: int) -> np.ndarray:
    count = max(2 * segments, min(4 * segments, CUT_REGIONS))
    return cut_regions(image, renumber(_grid(image, count)), segments)


def _kmeans(image: np.ndarray, segments: int, seed: int) -> np.ndarray:
    """Fit k-means to a sample of the pixels; an image with at most `segments` colours keeps its colours."""
    colors, index = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colors) <= segments:
        return index.reshape(image.shape[:2])
    lab = rgb2lab(image).reshape(-1, 3)
    sample = lab[:: max(1, len(lab) // SAMPLED_COLORS)]
    chosen = np.random.default_rng(seed).choice(len(colors), segments, replace=False)
    first = rgb2lab(colors[chosen][:, None]).reshape(-1, 3)
    # scipy warns about empty clusters, which keep their centre
    with ignored_warnings(module=r"scipy\.|upscore\.experiments\."):
        centers, _ = kmeans2(sample, first, iter=30, minit="matrix")
    return vq(lab, centers)[0].reshape(image.shape[:2])


def _search_scale(run: Callable[[float], np.ndarray], segments: int, *, start: float, power: float) -> np.ndarray:
    """Run a method with several scales and return the partition whose number of segments is closest.

    Args:
        run: returns the segments for a scale.
        segments: intended number of segments.
        start: first scale.
        power: exponent of the scale's correction, positive if the number of segments decreases with the scale.
    """
    scale, best, best_error = start, None, np.inf
    for _ in range(TRIES):
        labels = run(scale)
        ratio = len(np.unique(labels)) / segments
        if abs(np.log(ratio)) < best_error:
            best, best_error = labels, abs(np.log(ratio))
        if best_error <= TOLERANCE:
            break
        scale *= float(np.clip(ratio**power, 0.05, 20))
    assert best is not None
    return best


class Cut(NamedTuple):
    """The cut of a part in two with the lowest normalized cut."""

    cost: float
    number: int
    """Number of the cut, which decides between equal costs."""
    one: np.ndarray
    """Regions on one side."""
    other: np.ndarray
    """Regions on the other side."""


def cut_regions(image: np.ndarray, regions: np.ndarray, segments: int) -> np.ndarray:
    """Merge regions to segments by normalized cuts (Shi and Malik 2000).

    The similarity of adjacent regions is exp(-d² / 255), where d is the distance of their mean colours in RGB, 0 to
    255.

    Args:
        image: (h, w, 3) uint8.
        regions: (h, w) regions, 0 to R - 1.
        segments: number of segments.

    Returns:
        (h, w) int32, segments from 0 to `segments` - 1.
    """
    if regions.max() < segments:
        return regions
    weights = np.eye(int(regions.max()) + 1)
    for a, b, edge in graph.rag_mean_color(image, regions, mode="similarity").edges(data=True):
        weights[a, b] = weights[b, a] = edge["weight"]
    return renumber(partition(weights, segments)[regions])


def partition(weights: np.ndarray, parts: int) -> np.ndarray:
    """Partition a graph by repeated normalized cuts; the part with the cheapest cut is cut next.

    Args:
        weights: (R, R) symmetric similarities from 0 to 1, with 1 on the diagonal.
        parts: number of parts, at most R.

    Returns:
        (R,) the part of each node.
    """
    numbers = count()
    whole = np.arange(len(weights))
    labels = np.zeros(len(weights), np.int64)
    cuts = [cheapest_cut(weights, whole, next(numbers))]
    for part in range(1, parts):
        cut = heapq.heappop(cuts)
        labels[cut.other] = part
        for side in (cut.one, cut.other):
            if len(side) > 1:
                heapq.heappush(cuts, cheapest_cut(weights, side, next(numbers)))
    return labels


def cheapest_cut(weights: np.ndarray, nodes: np.ndarray, number: int) -> Cut:
    """Return the split of n > 1 nodes, sorted by the second eigenvector, with the lowest normalized cut.

    The solver is dense, since iterative solvers may not converge for regions that are all equally dissimilar.
    """
    inner = weights[np.ix_(nodes, nodes)]
    degree = inner.sum(axis=1)
    scale = 1 / np.sqrt(degree)
    laplacian = np.eye(len(nodes)) - scale[:, None] * inner * scale
    vector = eigh(laplacian, subset_by_index=(1, 1))[1][:, 0] * scale
    order = np.argsort(vector, kind="stable")
    below = degree[order].cumsum()[:-1]
    within = inner[np.ix_(order, order)].cumsum(axis=0).cumsum(axis=1).diagonal()[:-1]
    cost = (below - within) * (1 / below + 1 / (degree.sum() - below))
    best = int(cost.argmin())
    return Cut(float(cost[best]), number, nodes[order[: best + 1]], nodes[order[best + 1 :]])
