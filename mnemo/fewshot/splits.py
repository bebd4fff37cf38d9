"""Classes of a data set, chosen by name: what a few-shot data set is split into."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..disk.files import InputError
from ..images import Images, join


@dataclass(frozen=True)
class Split:
    """Some of a data set's classes, with all their images.

    Attributes:
        images: labels 0..len(class_names)-1; at least one image of every class.
        class_names: all different, in label order.
    """

    images: Images
    class_names: tuple[str, ...]


def chosen(parts: Sequence[Images], class_names: Sequence[str], wanted: Sequence[str]) -> Split:
    """The images of the classes ``wanted`` out of all ``parts``; labels are renumbered from 0 in that order.

    Args:
        parts: of one data set, with labels 0..len(class_names)-1.
        class_names: of the data set, in label order.
        wanted: some of them.

    Raises InputError for a name that is not one of ``class_names``.
    """
    places = {name: label for label, name in enumerate(class_names)}
    if absent := [name for name in wanted if name not in places]:
        raise InputError(f"no class {absent[0]!r} among {len(class_names)}; these are not the published data")
    old = torch.tensor([places[name] for name in wanted])
    images = join([part.of_classes(old) for part in parts])
    new = torch.full((len(class_names),), -1)
    new[old] = torch.arange(len(wanted))
    return Split(Images(images.pixels, new[images.labels]), tuple(wanted))
