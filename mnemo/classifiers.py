"""Ways to name a class: by the network's head, or by the nearest of other rows, such as means of exemplars."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .compression import unit_features
from .images import Images
from .nets import IncrementalNet, folded


def class_means(net: IncrementalNet, exemplars: Images, mirrors: bool, classes: int) -> Tensor:
    """Mean directions of the exemplars of each class, (classes, d), of length 1: iCaRL (Rebuffi et al., CVPR 2017).

    Where ``mirrors``, exemplars count both as they are and mirrored left to right, each mean apart, as the
    public code of iCaRL and LUCIR intends. (That code, moved to channels-last arrays, reverses the colours instead.)

    Args:
        net: gives the features.
        exemplars: at least one of every label in 0..classes - 1.
        mirrors: whether an image mirrored left to right is as good as the image.
        classes: seen so far.
    """
    views = [exemplars.pixels, exemplars.pixels.flip(3)] if mirrors else [exemplars.pixels]
    counts = torch.bincount(exemplars.labels, minlength=classes).unsqueeze(1)
    total = torch.zeros(())
    for pixels in views:
        features = unit_features(net, pixels)
        sums = features.new_zeros(classes, features.shape[1]).index_add_(0, exemplars.labels, features)
        total = total.to(sums.device) + sums / counts
    return F.normalize(total)


@torch.no_grad()
def count_correct(
    net: IncrementalNet, images: Images, rows: Mapping[str, Tensor], batch_size: int = 500
) -> dict[str, int]:
    """How many images each classifier names rightly among all seen classes; features are computed once for all.

    Args:
        net: is evaluated with its running statistics.
        images: labelled in order of arrival.
        rows: for each classifier besides ``"head"`` the directions of all classes, (classes, d), of length 1, such as
            those of :func:`class_means` for ``"nearest_mean"``.
        batch_size: images at a time.
    """
    net = folded(net)
    correct = {name: torch.zeros((), device=images.labels.device) for name in ("head", *rows)}
    for batch in images.batches(batch_size):
        outputs = net(batch.pixels)
        correct["head"] += (outputs.logits.argmax(1) == batch.labels).sum()
        for name, directions in rows.items():
            # they have length 1, so the largest cosine is the smallest distance to the normalised feature
            correct[name] += ((outputs.features @ directions.T).argmax(1) == batch.labels).sum()
    return {name: int(count) for name, count in correct.items()}
