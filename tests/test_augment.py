"""Augmentation: against a loop over images, and differentiable."""

import pytest
import torch
import torch.nn.functional as F

from mnemo.augment import CropAndFlip, ResizedCrop

SHAPE = (3, 9, 7)


def pixels(count=40, shape=SHAPE):
    return torch.randint(1, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(augmentation, count, seed=1, shape=SHAPE):
    """A function of pixels: the augmentation with one draw."""
    draws = augmentation.draw(count, shape, torch.Generator().manual_seed(seed))
    return lambda pixels: augmentation.apply(pixels, draws)


def candidates(image, padding, mirrors):
    """Every image that a crop of the padded image, mirrored or not, can give."""
    _, height, width = image.shape
    padded = F.pad(image, [padding] * 4)
    for view in [padded, padded.flip(2)] if mirrors else [padded]:
        for top in range(2 * padding + 1):
            for left in range(2 * padding + 1):
                yield view[:, top : top + height, left : left + width]


@pytest.mark.parametrize(("padding", "mirrors"), [(0, False), (0, True), (2, False), (2, True)])
def test_each_result_is_a_crop_of_its_own_image_and_all_crops_come(padding, mirrors):
    before = pixels(300)
    after = drawn(CropAndFlip(padding, mirrors), 300)(before)
    assert after.dtype == torch.uint8
    seen = set()
    for image, result in zip(before, after, strict=True):
        which = [k for k, view in enumerate(candidates(image, padding, mirrors)) if torch.equal(view, result)]
        assert which
        seen.add(which[0])
    assert len(seen) == (2 * padding + 1) ** 2 * (1 + mirrors)


def test_results_are_channels_last():
    after = drawn(CropAndFlip(2), 4)(pixels(4))
    assert after.is_contiguous(memory_format=torch.channels_last)


def test_a_draw_is_the_same_for_uint8_and_floating_pixels_and_each_time():
    transform = drawn(CropAndFlip(2), 40)
    before = pixels()
    assert torch.equal(transform(before).float(), transform(before.float()))
    assert torch.equal(transform(before), transform(before))


@pytest.mark.parametrize("augmentation", [CropAndFlip(2), ResizedCrop(5)])
def test_the_gradient_goes_back_to_the_pixels(augmentation):
    at = pixels(3).double().requires_grad_()
    transform = drawn(augmentation, 3)
    if isinstance(augmentation, ResizedCrop):
        at = at.float().detach().requires_grad_()
        transform(at).square().sum().backward()
        assert at.grad.abs().sum() > 0
    else:
        assert torch.autograd.gradcheck(transform, (at,))


def test_resized_crops_have_the_size_and_stay_within_the_image():
    before = torch.full((50, 3, 20, 30), 200, dtype=torch.uint8)
    after = drawn(ResizedCrop(8), 50, seed=0, shape=(3, 20, 30))(before)
    assert after.shape == (50, 3, 8, 8)
    torch.testing.assert_close(after, torch.full_like(after, 200))


def test_resized_crops_of_a_gradient_cover_different_parts():
    ramp = torch.arange(64.0).repeat(1, 1, 64, 1)
    after = drawn(ResizedCrop(16, mirrors=True), 200, seed=0, shape=(1, 64, 64))(ramp.repeat(200, 1, 1, 1))
    spans = after[:, 0, 0, -1] - after[:, 0, 0, 0]
    assert (spans < 0).any(), "none was mirrored"
    assert (spans > 0).any()
    assert spans.abs().max() > 45
    assert spans.abs().min() < 25


@pytest.mark.parametrize("augmentation", [CropAndFlip(2), CropAndFlip(0, True), ResizedCrop(5)])
def test_each_row_of_a_draw_belongs_to_one_image(augmentation):
    """So that what was drawn for many batches at once can be taken apart."""
    before, draws = pixels(6), augmentation.draw(6, SHAPE, torch.Generator().manual_seed(1))
    assert augmentation.varies
    whole = augmentation.apply(before, draws)
    parts = [augmentation.apply(before[at], draws[at]) for at in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_images_that_do_not_vary_are_left_alone():
    augmentation = CropAndFlip(0, False)
    assert not augmentation.varies
    assert torch.equal(drawn(augmentation, 5)(pixels(5)), pixels(5))
