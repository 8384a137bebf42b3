"""Importers: checkpoints of other projects become networks of `upscore.models`."""
