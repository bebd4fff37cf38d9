"""ImageNet-Subset: the 100 classes of ImageNet that the class-incremental literature uses."""

from collections.abc import Sequence

import numpy as np

NAME = "imagenet-subset"


def subset_classes(wnids: Sequence[str]) -> list[str]:
    """The class folders of ImageNet-Subset, sorted, out of ImageNet's 1000; 100 are the subset already.

    ``numpy.random.seed(1993)`` and then 100 of the sorted names, as in Mnemonics'
    ``generate_imagenet_subset.py`` and, before it, in LUCIR. Labels follow the sorted names, as they do in an
    image folder of those classes. Raises ValueError for any other number of classes.
    """
    if len(wnids) == 100:
        return sorted(wnids)
    if len(wnids) != 1000:
        raise ValueError(f"{len(wnids)} class folders; {NAME} is chosen from ImageNet's 1000, or has exactly 100")
    chosen = np.random.RandomState(1993).choice(sorted(wnids), 100, replace=False)
    return sorted(str(name) for name in chosen)
