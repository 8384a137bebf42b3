"""Data sets: reading from files, generated scenes, checks and augmentation."""

from upscore.data.checks import semantic as check
from upscore.data.datasets import Dataset, open_dataset, open_splits, subset
from upscore.data.example import example_path
from upscore.data.formats.folder import Issue
from upscore.data.instance_datasets import InstanceDataset, open_instance_splits, open_instances
from upscore.data.io.images import LabelError, read_image, read_label
from upscore.data.samples import FileDataset
from upscore.data.synthetic import SceneDataset

__all__ = [
    "Dataset",
    "FileDataset",
    "InstanceDataset",
    "Issue",
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
