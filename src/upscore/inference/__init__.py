"""Inference: preprocess images, run the network, decode the results."""

from upscore.inference.evaluate import evaluate
from upscore.inference.load import load
from upscore.inference.model import Model

__all__ = ["Model", "evaluate", "load"]
