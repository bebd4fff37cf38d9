"""FC100 and CIFAR-FS: the classes of CIFAR-100, split in two ways.

FC100 (Oreshkin et al., NeurIPS 2018) splits by superclass, so that a test class has no near relation among the training
classes. CIFAR-FS (Bertinetto et al., ICLR 2019) splits at random.
"""

from collections.abc import Iterable
from pathlib import Path

from .. import datasets
from ..datasets.folders import Progress
from .splits import Split, chosen

SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
"""All of CIFAR-100."""

_FC100_TEST = ("aquatic_mammals", "insects", "medium_mammals", "people")
_FC100_VALIDATION = (
    "large_carnivores",
    "large_omnivores_and_herbivores",
    "non-insect_invertebrates",
    "small_mammals",
)


def _classes(superclasses: Iterable[str]) -> tuple[str, ...]:
    """In the order of the fine labels, which is the alphabet's."""
    return tuple(sorted(name for superclass in superclasses for name in SUPERCLASSES[superclass]))


def _others(*lists: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*_classes(SUPERCLASSES)}.difference(*lists)))


FC100 = {"validation": _classes(_FC100_VALIDATION), "test": _classes(_FC100_TEST)}
FC100["train"] = _others(*FC100.values())

_CIFAR_FS_VALIDATION = """
beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark television
tractor
"""
_CIFAR_FS_TEST = """
baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table telephone
wardrobe whale woman worm
"""
CIFAR_FS = {"validation": tuple(_CIFAR_FS_VALIDATION.split()), "test": tuple(_CIFAR_FS_TEST.split())}
CIFAR_FS["train"] = _others(*CIFAR_FS.values())


def read_cifar(
    classes: dict[str, tuple[str, ...]], data_dir: Path, progress: Progress | None
) -> tuple[Split, Split, Split]:
    """Training, validation and test classes of CIFAR-100: 600 images (3, 32, 32) of each, its test images last.

    Args:
        classes: :data:`FC100` or :data:`CIFAR_FS`.
        data_dir: where ``mnemo.datasets.load`` finds ``cifar100``.
        progress: of loading.

    Raises InputError if CIFAR-100 is not there.
    """
    data = datasets.load("cifar100", data_dir, progress)
    parts = (data.train, data.test)
    train, validation, test = (
        chosen(parts, data.class_names, classes[name]) for name in ("train", "validation", "test")
    )
    return train, validation, test
