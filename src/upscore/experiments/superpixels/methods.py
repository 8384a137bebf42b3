"""Normalized cuts through a graph of regions (Shi and Malik 2000).

R: regions, the graph's nodes; n: those of one part of it.

The part whose cut costs least is cut next, so that the number of parts is whatever is asked for. The eigenvectors are
those of dense matrices: an iterative solver may never end on regions that are all equally unlike.
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


class Cut(NamedTuple):
    """The cheapest way to cut a part in two."""

    cost: float
    number: int
    """Of the cut: what decides between equal costs."""
    one: np.ndarray
    """The regions on one side."""
    other: np.ndarray


def cut_regions(photo: np.ndarray, regions: np.ndarray, segments: int) -> np.ndarray:
    """(h, w, 3) uint8 and (h, w) regions, 0 to R - 1 -> (h, w) int32, the part of each pixel, 0 to `segments` - 1.

    Neighbouring regions are alike as exp(-d² / 255), d being the distance of their mean colours in RGB, 0 to 255.
    """
    if regions.max() < segments:
        return regions
    weights = np.eye(int(regions.max()) + 1)
    for a, b, edge in graph.rag_mean_color(photo, regions, mode="similarity").edges(data=True):
        weights[a, b] = weights[b, a] = edge["weight"]
    return numbered(partition(weights, segments)[regions])


def partition(weights: np.ndarray, parts: int) -> np.ndarray:
    """(R, R) symmetric similarities, 0 to 1, with 1 on the diagonal -> (R,), the part of each node; parts <= R."""
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
    """Of n > 1 nodes: in the order of the second eigenvector, the split with the least normalized cut."""
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


FEATURES = (
    "lightness",
    "green to red",
    "blue to yellow",
    "spread of lightness",
    "spread of green to red",
    "spread of blue to yellow",
    "strength of edges",
    "logarithm of the share of the photo",
    "height in the photo",
    "distance from the middle",
)


def describe(photo: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (H, W) segments -> (S, 10) float32, a column for each of `FEATURES`.

    Colours are means in Lab, spreads their standard deviations, the strength of edges is the mean of Sobel's; places
    are from 0 (top, middle) to 1 (bottom) or 0.5 (left and right alike).
    """
    height, width = segments.shape
    flat = segments.ravel()
    sizes = np.bincount(flat)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(flat, weights=values.ravel()) / sizes

    lab = rgb2lab(photo)
    colors = [mean(lab[..., channel]) for channel in range(3)]
    squares = [mean(lab[..., channel] ** 2) for channel in range(3)]
    spreads = [np.sqrt(np.maximum(square - color**2, 0)) for color, square in zip(colors, squares, strict=True)]
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    x = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    columns = [
        *colors,
        *spreads,
        mean(sobel(rgb2gray(photo))),
        np.log(sizes / flat.size),
        mean(y),
        np.abs(mean(x) - 0.5),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def numbered(labels: np.ndarray) -> np.ndarray:
    """(H, W) integers -> (H, W) int32, 0 to S - 1 in the same order."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


Method = Literal["felzenszwalb", "slic", "quickshift", "watershed", "ncut", "kmeans"]
METHODS: tuple[Method, ...] = get_args(Method)

MAX_SIDE = 512
MOST_SEGMENTS, MOST_CUTS = 10_000, 1_000
TRIES, NEAR = 5, 0.1
"""Where a method has a scale instead of a number, it is run this often at most, until it is so near to the number."""

FARTHEST = 10**9
"""A distance beyond all that pixels of a photo have, for quickshift to find every pixel's way up."""

CUT_REGIONS = 400
"""Normalized cuts start from four times as many regions as are wanted, up to so many, then from twice as many."""

SAMPLED_COLORS = 20_000
"""Pixels, evenly spaced, that the colours of k-means are found on."""


def segment(
    photo: np.ndarray, method: Method = "slic", segments: int = 100, *, max_side: int = MAX_SIDE, seed: int = 0
) -> np.ndarray:
    """Group an (H, W, 3) uint8 photo's pixels -> (H, W) int32, the segment of each pixel, 0 to S - 1.

    `segments` is aimed at:

    - slic: k-means over colour and place, from a grid of cells; small leftovers are merged, so the number of cells is
      searched.
    - watershed: a flood of the edges' heights (Sobel) from one well in each cell of a grid; S is this number, up to the
      rounding of the grid.
    - felzenszwalb: a greedy merging of neighbours; its scale is searched, in a few runs, until S is near.
    - quickshift: pixels climb to the nearest one in a denser place of colour and position; the longest climbs are cut
      until there are so many hills, or more where there were more from the start.
    - ncut: normalized cuts, the cheapest first, through the graph of two to four times as many regions of SLIC; S is
      this number wherever SLIC finds so many regions.
    - kmeans: so many colours (Lab). A segment is all that has a colour, wherever it is: not one connected piece.

    Photos whose longer side is over `max_side` (0: never) are reduced to it, and the segments brought back by the
    nearest pixel. The same seed gives the same segments.

    Raises:
        UserError: the number is not from 1 to 10,000 (with ncut 1,000), or the side or the seed is negative.
    """
    require_options(method, segments, max_side, seed)
    height, width = photo.shape[:2]
    small = reduced(photo, max_side)
    pixels = small.shape[0] * small.shape[1]
    if segments == 1 or pixels == 1:
        return np.zeros((height, width), np.int32)
    return restored(numbered(_cluster(small, method, min(segments, pixels), seed)), (height, width))


def require_options(method: Method, segments: int, max_side: int, seed: int) -> None:
    """Raise a `UserError` unless `segment` takes them."""
    most = MOST_CUTS if method == "ncut" else MOST_SEGMENTS
    if not 1 <= segments <= most:
        raise UserError(f"{segments} segments: {method} aims at 1 to {most:,} a photo")
    if max_side < 0 or seed < 0:
        raise UserError(f"max_side={max_side}, seed={seed}: neither can be negative")


def _cluster(photo: np.ndarray, method: Method, segments: int, seed: int) -> np.ndarray:
    match method:
        case "slic":
            return _slic(photo, segments)
        case "watershed":
            return _watershed(photo, segments)
        case "felzenszwalb":
            return _felzenszwalb(photo, segments)
        case "quickshift":
            return _quickshift(photo, segments, seed)
        case "ncut":
            return _normalized_cut(photo, segments)
        case "kmeans":
            return _kmeans(photo, segments, seed)


def _slic(photo: np.ndarray, segments: int) -> np.ndarray:
    return _aim(lambda cells: _grid(photo, max(1, round(cells))), segments, start=float(segments), power=-1.0)


def _grid(photo: np.ndarray, cells: int) -> np.ndarray:
    return segmentation.slic(photo, n_segments=cells, compactness=10, start_label=0)


def _watershed(photo: np.ndarray, segments: int) -> np.ndarray:
    """A well is at the lowest place of each cell of a grid of about so many, the nearest to its middle of several."""
    height, width = photo.shape[:2]
    heights = sobel(rgb2gray(photo))
    rows = int(np.clip(round((segments * height / width) ** 0.5), 1, min(height, segments)))
    columns = int(np.clip(round(segments / rows), 1, width))
    y, x = (np.arange(height) + 0.5) * rows / height, (np.arange(width) + 0.5) * columns / width
    cells = (y.astype(int)[:, None] * columns + x.astype(int)).ravel()
    from_middle = ((y % 1 - 0.5)[:, None] ** 2 + (x % 1 - 0.5) ** 2).ravel()
    order = np.lexsort((from_middle, heights.ravel().round(4), cells))
    _, first = np.unique(cells[order], return_index=True)
    markers = np.zeros(height * width, np.int32)
    markers[order[first]] = 1 + np.arange(len(first))
    return segmentation.watershed(heights, markers=markers.reshape(height, width))


def _felzenszwalb(photo: np.ndarray, segments: int) -> np.ndarray:
    area = photo.shape[0] * photo.shape[1] / segments
    smallest = int(area / 20)
    return _aim(
        lambda scale: segmentation.felzenszwalb(photo, scale=scale, sigma=0.8, min_size=smallest),
        segments,
        start=0.4 * area,
        power=1.0,
    )


def _quickshift(photo: np.ndarray, segments: int, seed: int) -> np.ndarray:
    height, width = photo.shape[:2]
    kernel = int(np.clip(round(0.12 * (height * width / segments) ** 0.5), 1, 6))
    _, parents, climbs = segmentation.quickshift(
        photo, kernel_size=kernel, max_dist=FARTHEST, ratio=1.0, return_tree=True, rng=seed
    )
    parents, climbs = np.asarray(parents).ravel().astype(np.int64), np.asarray(climbs).ravel()
    longest = np.argsort(-climbs, kind="stable")[:segments]
    parents[longest] = longest
    while not np.array_equal(above := parents[parents], parents):
        parents = above
    return parents.reshape(height, width)


def _normalized_cut(photo: np.ndarray, segments: int) -> np.ndarray:
    count = max(2 * segments, min(4 * segments, CUT_REGIONS))
    return cut_regions(photo, numbered(_grid(photo, count)), segments)


def _kmeans(photo: np.ndarray, segments: int, seed: int) -> np.ndarray:
    """The colours are found on a sample, then each pixel takes the nearest; a photo of fewer colours keeps its own."""
    colors, index = np.unique(photo.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colors) <= segments:
        return index.reshape(photo.shape[:2])
    lab = rgb2lab(photo).reshape(-1, 3)
    sample = lab[:: max(1, len(lab) // SAMPLED_COLORS)]
    chosen = np.random.default_rng(seed).choice(len(colors), segments, replace=False)
    first = rgb2lab(colors[chosen][:, None]).reshape(-1, 3)
    # a colour that nothing in the sample is nearest to stays what it was
    with ignored_warnings(module=r"scipy\.|upscore\.experiments\."):
        centers, _ = kmeans2(sample, first, iter=30, minit="matrix")
    return vq(lab, centers)[0].reshape(photo.shape[:2])


def _aim(run: Callable[[float], np.ndarray], segments: int, *, start: float, power: float) -> np.ndarray:
    """The partition nearest to so many segments, of a few runs; their number falls (or rises) with the scale."""
    scale, best, best_error = start, None, np.inf
    for _ in range(TRIES):
        labels = run(scale)
        ratio = len(np.unique(labels)) / segments
        if abs(np.log(ratio)) < best_error:
            best, best_error = labels, abs(np.log(ratio))
        if best_error <= NEAR:
            break
        scale *= float(np.clip(ratio**power, 0.05, 20))
    assert best is not None
    return best


def reduced(photo: np.ndarray, max_side: int) -> np.ndarray:
    """The (h, w, 3) photo to cluster: where its longer side is over `max_side` (0: never), it is reduced to it."""
    height, width = photo.shape[:2]
    if not max_side or max(height, width) <= max_side:
        return photo
    factor = max_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX))


def restored(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) labels at a size (H, W), by the nearest pixel; where they are enlarged, none is lost."""
    height, width = size
    if labels.shape == size:
        return labels
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
