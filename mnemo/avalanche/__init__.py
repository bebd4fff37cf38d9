"""mnemo inside Avalanche 0.6, whose strategies, metrics and loggers stay as they are.

What is done here is translation: an experience becomes images and a phase, a model a network that takes pixels, and the
exemplars become an Avalanche data set again. The algorithms are those of the library.
"""

import importlib.util

from ..datasets.torchvision_import import import_torchvision

if importlib.util.find_spec("avalanche") is None:
    raise ImportError("Avalanche is not installed: pip install 'mnemo-cil[avalanche]' (avalanche-lib 0.6.0)")

import_torchvision()  # before Avalanche, which imports it itself

from .compatibility import let_dill_find_optimisers  # noqa: E402

let_dill_find_optimisers()
