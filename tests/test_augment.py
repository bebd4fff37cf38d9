"""Augmentation: against a loop over images, and differentiable."""

import pytest
import torch
import torch.nn.functional as F

from mnemo.augment import CropAndFlip, ResizedCrop

SHAPE = (3, 9, 7)


def pixels(count=40, shape=SHAPE):
    return torch.randint(1, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


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
    after = CropAndFlip(padding, mirrors).draw(300, SHAPE, torch.Generator().manual_seed(1))(before)
    assert after.dtype == torch.uint8
    seen = set()
    for image, result in zip(before, after, strict=True):
        which = [k for k, view in enumerate(candidates(image, padding, mirrors)) if torch.equal(view, result)]
        assert which
        seen.add(which[0])
    assert len(seen) == (2 * padding + 1) ** 2 * (1 + mirrors)


def test_results_are_channels_last():
    after = CropAndFlip(2).draw(4, SHAPE, torch.Generator())(pixels(4))
    assert after.is_contiguous(memory_format=torch.channels_last)


def test_a_draw_is_the_same_for_uint8_and_floating_pixels_and_each_time():
    transform = CropAndFlip(2).draw(40, SHAPE, torch.Generator().manual_seed(1))
    before = pixels()
    assert torch.equal(transform(before).float(), transform(before.float()))
    assert torch.equal(transform(before), transform(before))


@pytest.mark.parametrize("augmentation", [CropAndFlip(2), ResizedCrop(5)])
def test_the_gradient_goes_back_to_the_pixels(augmentation):
    at = pixels(3).double().requires_grad_()
    transform = augmentation.draw(3, SHAPE, torch.Generator().manual_seed(1))
    if isinstance(augmentation, ResizedCrop):
        at = at.float().detach().requires_grad_()
        transform(at).square().sum().backward()
        assert at.grad.abs().sum() > 0
    else:
        assert torch.autograd.gradcheck(transform, (at,))


def test_resized_crops_have_the_size_and_stay_within_the_image():
    before = torch.full((50, 3, 20, 30), 200, dtype=torch.uint8)
    after = ResizedCrop(8).draw(50, (3, 20, 30), torch.Generator().manual_seed(0))(before)
    assert after.shape == (50, 3, 8, 8)
    torch.testing.assert_close(after, torch.full_like(after, 200))


def test_resized_crops_of_a_gradient_cover_different_parts():
    ramp = torch.arange(64.0).repeat(1, 1, 64, 1)
    after = ResizedCrop(16, mirrors=True).draw(200, (1, 64, 64), torch.Generator().manual_seed(0))(
        ramp.repeat(200, 1, 1, 1)
    )
    spans = after[:, 0, 0, -1] - after[:, 0, 0, 0]
    assert (spans < 0).any(), "none was mirrored"
    assert (spans > 0).any()
    assert spans.abs().max() > 45
    assert spans.abs().min() < 25
