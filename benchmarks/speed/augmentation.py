"""(b) Crop, flip and normalisation of a batch."""

import torch

from mnemo.augment import CropAndFlip
from mnemo.images import Images

from . import images, ours, plain
from .options import Options
from .section import Section
from .timing import Variant, interleave

BAR = 20.0


def measure(options: Options) -> Section:
    """Images a second of whole batches of uint8, and of a DataLoader with PIL images."""
    classes = range(images.CLASSES)
    some = images.of_classes(images.load(options).train, classes, options.pick(5120, 64))
    sizes = options.pick((128, 512), (16, 32))
    variants = []
    for size in sizes:
        variants += [_mnemo(options, some, size), _pil(some, size)]
    section = Section("augmentation", "Crop, flip and normalisation", variants)
    interleave(variants, options.repeats, options.device)
    for size in sizes:
        section.expect(BAR, f"mnemo, batch {size}", f"PIL loader, batch {size}")
    section.notes.append("from uint8 images in memory to normalised float batches; num_workers=0")
    return section


def _mnemo(options: Options, some: Images, size: int) -> Variant:
    some = some.to(options.device)
    net, augmentation = ours.network(options, "linear", (1,)), CropAndFlip()
    net.backbone = torch.nn.Identity()  # what is left is the normalisation
    draw = torch.Generator().manual_seed(0)

    def epoch() -> None:
        for where in torch.randperm(len(some), generator=draw).split(size):
            batch = some.select(where.to(options.device))
            net.features(ours.augmented(augmentation, batch.pixels, draw))

    return Variant(f"mnemo, batch {size}", epoch, len(some), "images/s")


def _pil(some: Images, size: int) -> Variant:
    batches = plain.loader(some, plain.training_transform(), size)

    def epoch() -> None:
        for _ in batches:
            pass

    return Variant(f"PIL loader, batch {size}", epoch, len(some), "images/s")
