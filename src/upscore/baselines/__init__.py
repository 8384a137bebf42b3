"""What segmentation was before networks: groups of similar pixels, and what they are worth beside a network."""

from upscore.baselines.methods import METHODS, Method, segment

__all__ = ["METHODS", "Method", "segment"]
