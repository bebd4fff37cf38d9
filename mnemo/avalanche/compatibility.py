"""What Avalanche 0.6.0 needs beside a torch that is newer than itself."""

import sys

import torch


def let_dill_find_optimisers() -> None:
    """Let ``torch.optim.sgd`` and its neighbours be found where their classes say that they are.

    torch takes its optimisers' modules off ``torch.optim`` once they are imported. From torch 2.13 on dill then takes
    the classes for ones that cannot be imported, tries to store them whole, and Avalanche's ``save_checkpoint`` ends
    in a PicklingError. Attributes that are there already are left alone.
    """
    for name, module in list(sys.modules.items()):
        package, _, leaf = name.rpartition(".")
        if package == "torch.optim" and not hasattr(torch.optim, leaf):
            setattr(torch.optim, leaf, module)
