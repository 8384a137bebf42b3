"""Several processes and machines: torchrun and Ray."""
