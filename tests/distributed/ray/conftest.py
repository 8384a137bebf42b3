"""Ray on this machine, and a small detection model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Ray on this machine, started as by `--ray`; the connection is kept for all tests."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'upscore[ray]'")
    from upscore.distributed.ray.cluster import connected

    with connected("local") as ray:
        yield ray


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a detection model with random weights that detects some objects."""
    import torch

    from tests.tiny import BACKBONE
    from upscore.checkpoints import save_model
    from upscore.data.instance_datasets import open_instances
    from upscore.models.build import build

    torch.manual_seed(0)
    classes = open_instances("scenes:1").classes
    net = build("mask_rcnn", backbone=BACKBONE, num_classes=len(classes), max_detections=8)
    net.score_threshold = 0.08
    folder = tmp_path_factory.mktemp("models") / "detector"
    save_model(folder, net, classes=classes, max_side=0)
    return folder
