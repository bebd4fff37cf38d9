"""What happens where Avalanche is not installed; so it is tried everywhere."""

import importlib
import sys

import pytest

import mnemo


def test_the_plugin_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("mnemo.avalanche", "mnemo.strategies.avalanche"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(mnemo, "avalanche", raising=False)
    monkeypatch.setitem(sys.modules, "avalanche", None)
    with pytest.raises(ImportError, match=r"^Avalanche is not installed: pip install .*avalanche-lib 0\.6\.0\)$"):
        importlib.import_module("mnemo.strategies.avalanche_plugin")
