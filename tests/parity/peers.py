"""pytorch-fcn's networks; tests are skipped if they are not installed."""

from __future__ import annotations

from types import ModuleType

import pytest

from peers import shared
from upscore.errors import UserError


def torchfcn_models() -> ModuleType:
    """Return the module `torchfcn.models`."""
    try:
        return shared.torchfcn_models()
    except UserError as error:
        pytest.skip(str(error))
