"""Loading of models from a folder, a training run, the Hugging Face hub, or by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscore.checkpoints.config import read_config
from upscore.checkpoints.model_folder import WEIGHTS, find_model, load_model
from upscore.files import file_digest
from upscore.inference.engines import Device, EngineName, Precision
from upscore.inference.engines.cache import Store, code_version, store_for
from upscore.inference.engines.session import choose_precision, resolve_engine
from upscore.inference.model import Model, Options
from upscore.inference.quantized import find_quantized, read_quantized
from upscore.inference.threading import usual_torch_threads
from upscore.inference.tiled.in_memory import bytes_per_pixel
from upscore.memory import memory_errors
from upscore.models.backbones.base import BackboneSpec, spec_of
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

if TYPE_CHECKING:
    import openvino as ov


def load(
    source: str | Path,
    *,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    cache: bool = True,
) -> Model:
    """Load a model that is ready to predict.

    Args:
        source: a model folder, a training run (its best model), the name of a built-in model, or "hf://owner/name" on
            the Hugging Face hub, with "@revision" for a branch, a tag or a commit.
        engine: what runs the network; "auto" is the fastest that this machine has.
        precision: the number format it runs in; "auto" is the fastest that is safe on this machine. "int8" needs a
            model that `upscore calibrate` has been over, and is never chosen by itself.
        device: "cpu", or a GPU such as "cuda:0", for the engine torch; "auto" is the first GPU, or else the CPU.
        cache: keep OpenVINO's compiled networks on disk (`UPSCORE_CACHE`, or the user's cache folder). A network that
            is there already starts without building its layers; `Model.module` builds them when it is first asked for.

    Raises:
        UserError: there is no valid model, or not in that precision.
    """
    name = resolve_engine(engine, precision, device)
    folder = find_model(source)
    config = read_config(folder)
    quantized = find_quantized(folder) if precision == "int8" else None
    architecture = config.architecture.model_dump_json()
    choice = choose_precision(architecture, lambda: load_model(folder)[0], name, precision, device=device)
    store = _store(folder, architecture, choice.name, quantized) if name == "openvino" and cache else None
    files = ModelFolder(folder, store)
    parts: dict[str, ov.Model] = read_quantized(quantized) if quantized else {}
    options = Options(name, precision, device=device, quantized=parts, choice=choice, store=store)
    return Model.of_source(files, options, max_side=config.max_side, training=config.training, folder=folder)


class ModelFolder:
    """The network of a model folder, as the `Source` of a `Model`; its layers are built when they are needed.

    Args:
        path: the folder.
        store: the compiled parts of the network, and what is known of its backbone, if they are kept.

    Raises:
        UserError: the folder is damaged.
    """

    def __init__(self, path: Path, store: Store | None) -> None:
        self.path, self.store = path, store
        known = (store.read_facts() if store else None) or {}
        backbone = _known_backbone(known)
        self.has_layers = backbone is None
        self.facts = self._read(backbone)
        self.bytes_per_pixel: float | None = known.get(BYTES_PER_PIXEL) if backbone else None
        self._module: FCN | MaskRCNN | None = None

    @property
    def module(self) -> FCN | MaskRCNN:
        """The complete network; read from the folder at the first access."""
        if self._module is None:
            self._module = self._read()
        return self._module

    def private(self, *, complete: bool) -> FCN | MaskRCNN:
        """See `Source`."""
        return self.facts if self.has_layers or not complete else self._read()

    def _read(self, backbone: BackboneSpec | None = None) -> FCN | MaskRCNN:
        with memory_errors(f"{self.path}: loading the model", "use a machine with more memory, or a smaller model"):
            return load_model(self.path, backbone)[0]

    def compiled(self, net: FCN | MaskRCNN) -> None:
        """Store the facts about the network that the next start needs."""
        if self.store is None or isinstance(net.backbone, BackboneSpec) or net.architecture.get("neck") == "c4":
            return  # the head of a C4 network is a part of its backbone's
        self.bytes_per_pixel = bytes_per_pixel(net) if isinstance(net, FCN) else 0.0
        self.store.write_facts(spec_of(net.backbone) | {BYTES_PER_PIXEL: self.bytes_per_pixel})


BYTES_PER_PIXEL = "bytes_per_pixel"


def _store(folder: Path, architecture: str, precision: str, quantized: Path | None) -> Store | None:
    """Return the store of the compiled parts of a network; its key covers all that they depend on."""
    files = [folder / WEIGHTS, *([] if quantized is None else sorted(quantized.iterdir()))]
    try:
        return store_for(*code_version(), architecture, precision, usual_torch_threads(), *map(file_digest, files))
    except (OSError, RuntimeError):  # weights that can't be read, of which their reader says so; a user without a home
        return None


def _known_backbone(facts: dict[str, Any]) -> BackboneSpec | None:
    """Return the backbone's spec from the store, or None if it is missing or damaged."""
    try:
        float(facts[BYTES_PER_PIXEL])
        return BackboneSpec(facts)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
