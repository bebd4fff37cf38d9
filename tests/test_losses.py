"""Losses against the formulas of the public code, written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnemo import losses

GENERATOR = torch.Generator().manual_seed(0)


def test_distillation_is_the_public_baselines():
    new, old = torch.randn(6, 9, generator=GENERATOR), torch.randn(6, 5, generator=GENERATOR)
    temperature, beta = 2.0, 0.25
    theirs = (
        nn.KLDivLoss(reduction="none")(
            F.log_softmax(new[:, :5] / temperature, 1), F.softmax(old / temperature, 1)
        ).mean()
        * temperature**2
        * beta
        * 5
    )
    torch.testing.assert_close(losses.distillation(new, old, temperature), theirs)


def test_distillation_of_the_same_prediction_is_zero():
    logits = torch.randn(4, 3, generator=GENERATOR)
    assert float(losses.distillation(logits, logits)) == pytest.approx(0, abs=1e-6)


def test_what_is_remembered_is_distilled_image_by_image():
    new = torch.randn(4, 6, generator=GENERATOR, requires_grad=True)
    earlier = torch.randn(4, 5, generator=GENERATOR)
    earlier[1, 3:] = torch.nan  # an image of an earlier phase, with fewer classes
    earlier[2] = torch.nan  # a new image
    parts = [(new[[i]], earlier[[i], :width]) for i, width in ((0, 5), (1, 3), (3, 5))]
    expected = sum(losses.distillation(logits, old, 2.0) for logits, old in parts) / 4
    found = losses.remembered(new, earlier, 2.0)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, new, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, new)[0])


def test_less_forget_is_the_cosine_embedding_loss():
    new, old = torch.randn(2, 6, 8, generator=GENERATOR)
    theirs = nn.CosineEmbeddingLoss()(new, old, torch.ones(6))
    torch.testing.assert_close(losses.less_forget(new, old), theirs)


@pytest.mark.parametrize("hardest", [1, 2, 5])
def test_margin_ranking_is_lucirs(hardest):
    scores = torch.rand(8, 7, generator=GENERATOR) * 2 - 1
    labels = torch.tensor([0, 5, 2, 6, 3, 1, 5, 0])
    old, rivals = labels < 4, min(hardest, 3)
    true = scores[old].gather(1, labels[old].unsqueeze(1)).repeat(1, rivals)
    hard = scores[old][:, 4:].topk(rivals, 1).values
    theirs = nn.MarginRankingLoss(margin=0.5)(true.view(-1, 1), hard.view(-1, 1), torch.ones(true.numel(), 1))
    torch.testing.assert_close(losses.margin_ranking(scores, labels, 4, 0.5, hardest), theirs)


def test_margin_ranking_without_old_images_is_zero_with_a_gradient():
    scores = torch.rand(3, 5, generator=GENERATOR).requires_grad_()
    loss = losses.margin_ranking(scores, torch.tensor([4, 3, 3]), 3)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(scores.grad, torch.zeros(3, 5))
