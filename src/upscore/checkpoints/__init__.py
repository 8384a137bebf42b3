"""The model folder, and checkpoints of other projects."""

from upscore.checkpoints.folder import ModelCard, load_model, save_model

__all__ = ["ModelCard", "load_model", "save_model"]
