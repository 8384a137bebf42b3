"""Sources of the network of a `Model`: a module in memory, or a model folder whose layers are built on demand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from upscore.checkpoints.model_folder import load_model
from upscore.inference.engines.cache import Store
from upscore.inference.tiled.in_memory import bytes_per_pixel
from upscore.memory import memory_errors
from upscore.models.backbones.base import BackboneSpec, spec_of
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

BYTES_PER_PIXEL = "bytes_per_pixel"
"""Key of `bytes_per_pixel` in the specification that a `Store` keeps."""


class Source(Protocol):
    """Source of the network of a `Model`."""

    @property
    def spec(self) -> FCN | MaskRCNN:
        """The network, used for its attributes only; its backbone may have no layers."""
        ...

    @property
    def module(self) -> FCN | MaskRCNN:
        """The complete network, which the user may change."""
        ...

    @property
    def bytes_per_pixel(self) -> float | None:
        """Result of `bytes_per_pixel` for the network; None if it has not been computed."""
        ...

    def private_copy(self, *, complete: bool) -> FCN | MaskRCNN:
        """Return a copy in evaluation mode for a session; its backbone may have no layers unless `complete`."""
        ...

    def on_compiled(self, net: FCN | MaskRCNN) -> None:
        """Called after a session has compiled the copy `net`."""
        ...


class ModuleSource:
    """`Source` of a network in memory."""

    bytes_per_pixel = None

    def __init__(self, module: FCN | MaskRCNN) -> None:
        self.module = self.spec = module

    def private_copy(self, *, complete: bool) -> FCN | MaskRCNN:
        """See `Source`; the copy has no gradients."""
        parameters = self.module.parameters()
        copies = {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in parameters}
        return copy.deepcopy(self.module, copies).eval()

    def on_compiled(self, net: FCN | MaskRCNN) -> None:
        """See `Source`."""


class FolderSource:
    """`Source` of a network in a model folder. Layers that the engine has compiled already are built on demand.

    Args:
        path: the model folder.
        store: cache of the compiled parts; None disables it.

    Raises:
        UserError: the folder is damaged.
    """

    def __init__(self, path: Path, store: Store | None) -> None:
        self.path, self.store = path, store
        cached = (store.read_spec() if store else None) or {}
        backbone = _cached_backbone(cached)
        self.has_layers = backbone is None
        self.spec = self._read(backbone)
        self.bytes_per_pixel: float | None = cached.get(BYTES_PER_PIXEL) if backbone else None
        self._module: FCN | MaskRCNN | None = None

    @property
    def module(self) -> FCN | MaskRCNN:
        """The complete network, which is read from the folder at the first access."""
        if self._module is None:
            self._module = self._read()
        return self._module

    def private_copy(self, *, complete: bool) -> FCN | MaskRCNN:
        """See `Source`."""
        return self.spec if self.has_layers or not complete else self._read()

    def on_compiled(self, net: FCN | MaskRCNN) -> None:
        """Store what the next start needs to know about the network."""
        if self.store is None or isinstance(net.backbone, BackboneSpec) or net.architecture.get("neck") == "c4":
            return  # the box head of a C4 network uses layers of the backbone
        self.bytes_per_pixel = bytes_per_pixel(net) if isinstance(net, FCN) else 0.0
        self.store.write_spec(spec_of(net.backbone) | {BYTES_PER_PIXEL: self.bytes_per_pixel})

    def _read(self, backbone: BackboneSpec | None = None) -> FCN | MaskRCNN:
        with memory_errors(f"{self.path}: loading the model", "use a machine with more memory, or a smaller model"):
            return load_model(self.path, backbone)[0]


def _cached_backbone(spec: dict[str, Any]) -> BackboneSpec | None:
    """Return the specification of the backbone, or None if it is missing or damaged."""
    try:
        float(spec[BYTES_PER_PIXEL])
        return BackboneSpec(spec)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
