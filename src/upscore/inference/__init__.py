"""Inference: loading of models, prediction and evaluation."""

from upscore.inference.evaluate import evaluate
from upscore.inference.load import load
from upscore.inference.model import Model

__all__ = ["Model", "evaluate", "load"]
