"""Measures which cues a network relies on: objects, their shape, or the background (FCN table 8)."""
