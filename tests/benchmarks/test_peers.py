"""A peer that is missing."""

import importlib.util
import sys

import pytest

from peers.shared import noise, torchfcn_models
from upscore.errors import UserError


def test_a_missing_peer_is_told_with_its_remedy(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchfcn.models", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps torchfcn"):
        torchfcn_models()


def test_the_same_photo_at_every_call():
    assert noise(4, 6).shape == (4, 6, 3)
    assert (noise(4, 6) == noise(4, 6)).all()
