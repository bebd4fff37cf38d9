"""NC-FSCIL's parts: the simplex, the projection, the head, and the dot-regression loss."""

import pytest
import torch
import torch.nn.functional as F

from mnemo import losses
from mnemo.disk.files import InputError
from mnemo.nets import SimplexHead, build
from mnemo.nets.simplex import WIDTH, Projection, simplex

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("classes", "width"), [(2, 2), (5, 9), (90, 512), (512, 512)])
def test_a_simplex_is_equiangular_and_tight(classes, width):
    torch.manual_seed(classes)
    vertices = simplex(classes, width)
    expected = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1)
    torch.testing.assert_close(vertices @ vertices.T, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(vertices.sum(0), torch.zeros(width), atol=1e-5, rtol=0)
    tight = vertices.T @ vertices  # the same on all of the space that the vertices span
    torch.testing.assert_close(tight @ vertices.T, classes / (classes - 1) * vertices.T, atol=1e-5, rtol=0)


def test_dot_regression_is_the_public_codes():
    features = F.normalize(torch.randn(6, 8, generator=GENERATOR))
    targets = F.normalize(torch.randn(6, 8, generator=GENERATOR))
    dot = torch.sum(features * targets, dim=1)
    h_norm2 = m_norm2 = torch.ones_like(dot)
    theirs = 0.5 * torch.mean(((dot - (m_norm2 * h_norm2)) ** 2) / h_norm2)
    torch.testing.assert_close(losses.dot_regression(F.cosine_similarity(features, targets)), theirs)


def test_the_projection_by_hand():
    torch.manual_seed(0)
    projection, features = Projection(4, 6), torch.randn(3, 4, generator=GENERATOR)
    first, _, _, second, _, _, third = projection.layers
    hidden = features
    for layer in (first, second):
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = (hidden - hidden.mean(1, keepdim=True)) / (hidden.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        hidden = torch.where(hidden < 0, 0.1 * hidden, hidden)
    torch.testing.assert_close(projection(features), hidden @ third.weight.T + features @ projection.past.weight.T)


def test_the_head_gives_cosines_with_the_vertices_of_the_classes_so_far():
    head, features = SimplexHead(4, 7), torch.randn(5, 4, generator=GENERATOR)
    head.grow(3)
    first = head(features)
    head.grow(4)
    outputs = head(features)
    projected = head.projection(features)
    by_hand = torch.stack([F.cosine_similarity(projected, v.expand_as(projected)) for v in head.frame], 1)
    torch.testing.assert_close(outputs.scores, by_hand)
    assert torch.equal(outputs.logits, outputs.scores)
    assert torch.equal(outputs.features, features)
    torch.testing.assert_close(first.scores, by_hand[:, :3])


def test_vertices_never_learn_and_run_out():
    head = SimplexHead(4, 3)
    head.grow(2)
    head.learn_old(True)
    assert not any(group.requires_grad for group in head.weights)
    assert torch.equal(head.weights[0], head.frame[:2])
    with pytest.raises(ValueError, match="3 vertices, and 2 are taken"):
        head.grow(2)


@pytest.mark.parametrize("classes", [None, 1, WIDTH + 1])
def test_classes_that_a_simplex_has_no_room_for(classes):
    with pytest.raises(InputError, match="how many classes will come"):
        build("small", "simplex", 1, [120.0], [70.0], classes=classes)
