"""Importing pytorch-fcn's networks without the data sets, downloads and viewers that its packages import first."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest


def torchfcn_models() -> ModuleType:
    """`torchfcn.models`, under a parent package that never runs and beside a stand-in for `fcn`, its downloader."""
    spec = importlib.util.find_spec("torchfcn")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("torchfcn, the reference of this comparison, is not installed (pip install --no-deps torchfcn)")
    parent = ModuleType("torchfcn")
    parent.__path__ = list(spec.submodule_search_locations)
    sys.modules.setdefault("torchfcn", parent)
    sys.modules.setdefault("fcn", ModuleType("fcn"))
    return importlib.import_module("torchfcn.models")
