"""From photos to predictions: preprocess, run, decode."""

from upscore.inference.evaluate import evaluate
from upscore.inference.load import load
from upscore.inference.predictor import Predictor

__all__ = ["Predictor", "evaluate", "load"]
