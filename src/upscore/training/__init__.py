"""Training: recipes, training loop, callbacks and run folder."""

from upscore.training.loop import fit
from upscore.training.recipes import RECIPES, Recipe
from upscore.training.train import train

__all__ = ["RECIPES", "Recipe", "fit", "train"]
