"""Imports recipes, which are scripts outside of the package."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "recipes"


def recipe(name: str) -> ModuleType:
    """Import a recipe without running it."""
    if str(FOLDER) not in sys.path:  # as for a script in this folder
        sys.path.insert(0, str(FOLDER))
    spec = spec_from_file_location(f"recipes_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their annotations there
    spec.loader.exec_module(module)
    return module
