"""Images in tiles: those that are too large for memory, and those with more objects than a network finds at once."""
