"""torchvision, also beside a torch that was built without CUDA."""

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

_NO_OPERATORS = "operator torchvision::nms does not exist"


def import_torchvision() -> ModuleType:
    """The module ``torchvision``, imported when this is called (it takes a second or more).

    A torchvision built for CUDA cannot load its C++ operators beside a CPU-only torch: it passes over that in
    silence, and then stops at the first use of their names (pytorch/vision issues 9077 and 9085). On exactly
    that error the two missing schemas are declared and the import is tried once more. Transforms, data sets
    and models then work; the operators themselves still raise torchvision's own error. A healthy installation
    is left as it is.

    Raises ImportError, or whatever else torchvision raises while it is imported.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if str(error) != _NO_OPERATORS:
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    _declare_schemas()
    return importlib.import_module("torchvision")


@functools.cache  # the schemas last as long as the Library, which the cache keeps
def _declare_schemas() -> Any:
    from torch.library import Library

    library = Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
