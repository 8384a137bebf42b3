"""Read and write model folders, and import checkpoints of other projects."""

from upscore.checkpoints.config import ModelConfig
from upscore.checkpoints.model_folder import load_model, save_model

__all__ = ["ModelConfig", "load_model", "save_model"]
