"""The model folder, and checkpoints of other projects."""

from upscore.checkpoints.card import ModelCard
from upscore.checkpoints.folder import load_model, save_model

__all__ = ["ModelCard", "load_model", "save_model"]
