"""The handwritten digits that scikit-learn brings along: a data set without a download."""

import numpy as np
import torch

from ..images import Images, rank_in_class
from .folders import Dataset


def load_digits() -> Dataset:
    """1797 pictures ``(1, 8, 8)`` of the digits 0 to 9, their 17 grey levels spread over 0..255.

    "Optical Recognition of Handwritten Digits" of the UCI repository (Alpaydin and Kaynak, 1998), its test
    part. It has no published split. Here, of the pictures of each class in scikit-learn's order, the third of
    every five is for testing: 1438 to train on, 359 to test on, both spread evenly over that order.
    """
    from sklearn import datasets  # type: ignore[import-untyped]  # here, since it takes a second

    digits = datasets.load_digits()
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    testing = rank_in_class(labels) % 5 == 2
    both = Images(pixels, labels)
    return Dataset(both.select(~testing), both.select(testing), tuple(str(name) for name in digits.target_names))
