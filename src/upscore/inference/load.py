"""A model by its place: a folder, a run, or a repository on a hub; or by its name."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from upscore.checkpoints.card import CARD, read_card
from upscore.checkpoints.folder import WEIGHTS, find_model, load_model
from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.engines.cache import Store, digest_of, store_for
from upscore.inference.engines.choice import resolve_engine
from upscore.inference.predictor import Predictor
from upscore.inference.quantized import find_quantized, read_quantized
from upscore.models.trunks import TrunkFacts, facts_of

if TYPE_CHECKING:
    import openvino as ov

HUB = "hf://"


def load(
    source: str | Path, *, engine: EngineName = "auto", precision: Precision = "auto", cache: bool = True
) -> Predictor:
    """A model that is ready to predict.

    Args:
        source: a model folder, a training run (its best model), the name of a built-in model, or "hf://owner/name" on
            the Hugging Face hub.
        engine: what runs the network; "auto" is the fastest that this machine has.
        precision: the number format it runs in; "auto" is the fastest that is safe on this machine. "int8" needs a
            model that `upscore calibrate` has been over, and is never chosen by itself.
        cache: OpenVINO's compiled networks are kept on disk (`UPSCORE_CACHE`, or the user's folder for caches). A
            network that is there already starts without its layers: `Predictor.net` then has no trunk to train or run.

    Raises:
        UserError: there is no valid model, or not in that precision.
    """
    if isinstance(source, str) and source.startswith(HUB):
        source = _download(source.removeprefix(HUB))
    name = resolve_engine(engine, precision)
    folder = find_model(source)
    quantized = find_quantized(folder) if precision == "int8" else None
    store = _store(folder, precision, quantized) if name == "openvino" and cache else None
    trunk = _known_trunk(store) if store else None
    if trunk:
        try:
            return _predictor(folder, engine, precision, quantized, store, trunk)
        except NotImplementedError:  # a part is no longer there, and the facts have no layers to make it of
            pass
    predictor = _predictor(folder, engine, precision, quantized, store)
    if store and predictor.net.architecture.get("neck") != "c4":  # whose head is a part of the trunk's network
        store.write_facts(facts_of(predictor.net.trunk))
    return predictor


def _predictor(
    folder: Path,
    engine: EngineName,
    precision: Precision,
    quantized: Path | None,
    store: Store | None,
    trunk: TrunkFacts | None = None,
) -> Predictor:
    net, card = load_model(folder, trunk)
    # beside facts too: a part that is no longer in the store must not be made again in another format
    parts: dict[str, ov.Model] = read_quantized(quantized) if quantized else {}
    predictor = Predictor(net, engine, precision, max_side=card.max_side, quantized=parts, store=store)
    predictor.training, predictor.folder = card.training, folder
    return predictor


def _store(folder: Path, precision: str, quantized: Path | None) -> Store | None:
    """Where this network's compiled parts are kept: by all that they depend on."""
    files = [folder / WEIGHTS, *([] if quantized is None else sorted(quantized.iterdir()))]
    architecture = read_card(folder).architecture.model_dump_json()
    versions = [version(package) for package in ("upscore", "torch", "openvino")]
    try:
        return store_for(*versions, architecture, precision, torch.get_num_threads(), *map(digest_of, files))
    except (OSError, RuntimeError):  # weights that can't be read, of which their reader says so; a user without a home
        return None


def _known_trunk(store: Store) -> TrunkFacts | None:
    """What the store knows of the trunk; None where it is nothing, or damaged."""
    try:
        return TrunkFacts(store.read_facts() or {})
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # nothing else of a repository is fetched, let alone run
        return Path(snapshot_download(repository, allow_patterns=[CARD, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{HUB}{repository} can't be fetched: {reason}") from error
