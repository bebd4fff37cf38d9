"""Mnemonics inside Avalanche's strategies; see docs/avalanche.md. Importing this raises ImportError without Avalanche.

Every part is in :mod:`mnemo.avalanche`; this is where users find them all.
"""

from mnemo.avalanche.buffer import MnemonicsBuffer, MnemonicsPlugin
from mnemo.avalanche.record import Recorder
from mnemo.avalanche.streams import benchmark, class_stream

__all__ = ["MnemonicsBuffer", "MnemonicsPlugin", "Recorder", "benchmark", "class_stream"]
