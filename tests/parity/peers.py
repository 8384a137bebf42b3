"""pytorch-fcn's networks, where they are installed."""

from __future__ import annotations

from types import ModuleType

import pytest

from peers import shared
from upscore.errors import UserError


def torchfcn_models() -> ModuleType:
    """`torchfcn.models`."""
    try:
        return shared.torchfcn_models()
    except UserError as error:
        pytest.skip(str(error))
