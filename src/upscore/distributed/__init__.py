"""Distributed training with torchrun; distributed prediction and evaluation with Ray."""
