"""Importers: convert checkpoints of other projects to networks of `upscore.models`."""
