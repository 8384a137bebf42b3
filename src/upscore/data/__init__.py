"""Samples out of folders and generators: reading, checking, and changing them on their way to training."""

from upscore.data import check
from upscore.data.datasets import Dataset, open_dataset, open_splits, subset
from upscore.data.example import example_path
from upscore.data.folder import Fault
from upscore.data.images import LabelError, read_image, read_label
from upscore.data.instance_datasets import InstanceDataset, open_instance_splits, open_instances
from upscore.data.samples import FileDataset
from upscore.data.scenes import SceneDataset

__all__ = [
    "Dataset",
    "Fault",
    "FileDataset",
    "InstanceDataset",
    "LabelError",
    "SceneDataset",
    "check",
    "example_path",
    "open_dataset",
    "open_instance_splits",
    "open_instances",
    "open_splits",
    "read_image",
    "read_label",
    "subset",
]
