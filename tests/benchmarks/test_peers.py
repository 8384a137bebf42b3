"""Missing peers and the noise image."""

import importlib.util
import sys

import pytest

from peers.shared import noise, torchfcn_models
from upscore.errors import UserError


def test_message_for_a_missing_peer_has_the_installation_command(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchfcn.models", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps torchfcn"):
        torchfcn_models()


def test_noise_is_the_same_at_each_call():
    assert noise(4, 6).shape == (4, 6, 3)
    assert (noise(4, 6) == noise(4, 6)).all()
