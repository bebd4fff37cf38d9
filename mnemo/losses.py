"""Losses of class-incremental learning, as functions of tensors; each gives a scalar, the mean over the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation(logits: Tensor, old_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Kullback-Leibler divergence from the old network's softened prediction to the new one's.

    Li and Hoiem, ECCV 2016; Mnemonics, equation 1 (up to the teacher's entropy, a constant). Without the factor
    temperature**2: the public baselines of this protocol use 0.25 * 2**2 = 1.

    Args:
        logits: (n, classes); those of the old classes come first, the others are not used.
        old_logits: (n, old classes), without gradient.
        temperature: both are divided by it before the softmax; above 0.
    """
    new = F.log_softmax(logits[:, : old_logits.shape[1]] / temperature, dim=1)
    old = F.log_softmax(old_logits / temperature, dim=1)
    return F.kl_div(new, old, reduction="batchmean", log_target=True)


def less_forget(features: Tensor, old_features: Tensor) -> Tensor:
    """One minus the cosine of new and old features, both (n, d): LUCIR, equation 6."""
    return (1 - F.cosine_similarity(features, old_features)).mean()


def dot_regression(cosines: Tensor) -> Tensor:
    """Half the squared distance of cosines (n,) from 1: NC-FSCIL (Yang et al., ICLR 2023), for vectors of length 1."""
    return (cosines - 1).square().mean() / 2


def margin_ranking(scores: Tensor, labels: Tensor, old_classes: int, margin: float = 0.5, hardest: int = 2) -> Tensor:
    """Keep old images away from the new classes that they resemble most: LUCIR, equation 8.

    Args:
        scores: cosines (n, classes), before any scale.
        labels: int64 (n,).
        old_classes: labels below it are old; only their images count. 0 where the batch has none.
        margin: by how much the true class is to lead.
        hardest: how many of the highest new-class scores are compared; all of them where there are fewer.
    """
    is_old = labels < old_classes
    rivals = scores[:, old_classes:]
    rivals = rivals.topk(min(hardest, rivals.shape[1]), dim=1).values
    true = scores.gather(1, labels.unsqueeze(1))
    gaps = F.relu(margin - true + rivals).mean(dim=1)
    # a masked mean, not a selection: its shape does not depend on the batch, so nothing waits for the device
    return torch.where(is_old, gaps, 0).sum() / is_old.sum().clamp(min=1)


def remembered(logits: Tensor, earlier: Tensor, temperature: float = 2.0) -> Tensor:
    """Distillation from logits that were stored with some of the images.

    Buzzega et al., "Dark experience for general continual learning", NeurIPS 2020, keep logits so and compare them by
    their squared distance; here it is :func:`distillation`.

    Args:
        logits: (n, classes).
        earlier: (n, m), m at most ``classes``; NaN for classes that were not known, and for images without.
        temperature: see :func:`distillation`.

    Returns:
        The mean over all n images, those without counting 0.
    """
    known = ~earlier.isnan()
    unknown = ~known & known.any(1, keepdim=True)  # images without take part as a whole, and count 0
    new = (logits[:, : earlier.shape[1]] / temperature).masked_fill(unknown, -torch.inf).log_softmax(1)
    old = (earlier.nan_to_num() / temperature).masked_fill(unknown, -torch.inf).log_softmax(1)
    gaps = torch.where(known, old.exp() * (old - new), 0)
    return gaps.sum() / len(logits)
