"""A model by its place: a folder, a run, or a repository on a hub; or by its name."""

from __future__ import annotations

from pathlib import Path

from upscore.checkpoints.folder import CARD, WEIGHTS, load_model
from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.predictor import Predictor

HUB = "hf://"


def load(source: str | Path, *, engine: EngineName = "auto", precision: Precision = "auto") -> Predictor:
    """A model that is ready to predict.

    Args:
        source: a model folder, a training run (its best model), the name of a built-in model, or "hf://owner/name" on
            the Hugging Face hub.
        engine: what runs the network; "auto" is the fastest that this machine has.
        precision: the number format it runs in; "auto" is the fastest that is safe for this network.

    Raises:
        UserError: there is no valid model.
    """
    if isinstance(source, str) and source.startswith(HUB):
        source = _download(source.removeprefix(HUB))
    net, card = load_model(source)
    predictor = Predictor(net, engine=engine, precision=precision, max_side=card.max_side)
    predictor.training = card.training
    return predictor


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # nothing else of a repository is fetched, let alone run
        return Path(snapshot_download(repository, allow_patterns=[CARD, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{HUB}{repository} can't be fetched: {reason}") from error
