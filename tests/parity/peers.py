"""pytorch-fcn's networks, where they are installed."""

from __future__ import annotations

from types import ModuleType

import pytest

from upscore.bench import peers
from upscore.errors import UserError


def torchfcn_models() -> ModuleType:
    """`torchfcn.models`."""
    try:
        return peers.torchfcn_models()
    except UserError as error:
        pytest.skip(str(error))
