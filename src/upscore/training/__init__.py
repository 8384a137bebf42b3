"""Training: recipes, the loop, and the folder it leaves behind."""

from upscore.training.loop import fit
from upscore.training.recipes import RECIPES, Recipe
from upscore.training.train import train

__all__ = ["RECIPES", "Recipe", "fit", "train"]
