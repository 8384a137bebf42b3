"""Normalized cuts through a graph of regions (Shi and Malik 2000).

R: regions, the graph's nodes; n: those of one part of it.

The part whose cut costs least is cut next, so that the number of parts is whatever is asked for. The eigenvectors are
those of dense matrices: an iterative solver may never end on regions that are all equally unlike.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from skimage import graph

from upscore.baselines.numbering import numbered


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
