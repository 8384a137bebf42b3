"""Table of the receptive fields of networks, and of the overhead of tiles.

python benchmarks/receptive_fields.py
"""

from __future__ import annotations

import torch

from upscore.inference.tiled.in_memory import MEMORY
from upscore.inference.tiled.plan import core_size
from upscore.models import build
from upscore.models.fcn.fcn import FCN
from upscore.models.receptive_field import receptive_field

NETWORKS = [
    ("fcn8s", "vgg16", "same"),
    ("fcn8s", "vgg16", "caffe"),
    ("fcn32s", "alexnet", "caffe"),
    ("fcn8s", "efficientnet_lite0", "same"),
    ("fcn8s", "resnet18", "same"),
    ("fcn8s", "resnet50", "same"),
]
BYTES = (MEMORY, 4 * 2**30)


def main() -> None:
    torch.set_num_threads(2)
    names = "network|receptive field of a cell, stride 8|16|32|of a pixel|halo"
    costs = [f"core at {size / 2**30:g} GiB|computed pixels" for size in BYTES]
    head = [*names.split("|"), *"|".join(costs).split("|")]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, backbone, geometry in NETWORKS:
        net = build(name, backbone=backbone, geometry=geometry, num_classes=21)
        assert isinstance(net, FCN)
        field = receptive_field(net)
        assert field.rows is not None
        sizes = [str(field.maps[stride][0].size) if stride in field.maps else "" for stride in (8, 16, 32)]
        row = [f"{name} {backbone} ({geometry})", *sizes, str(field.rows.size), str(field.halo)]
        for size in BYTES:
            tile_size = core_size(net, field.halo, 256, size)
            row += [str(tile_size), f"{(1 + 2 * field.halo / tile_size) ** 2:.1f}x"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
