"""Codecs: against Pillow's own files and against linear maps written out in float64."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mnemo.codecs import NAMES, Half, Jpeg, Mixed, Raw, WebP, WebPLossless, make, round_trip, without_fine_colour
from mnemo.disk.files import InputError

SHAPES = [(3, 32, 32), (1, 8, 8), (3, 9, 13), (1, 13, 9), (3, 1, 2)]
JPEGS = [Jpeg(90), Jpeg(75, "4:2:0"), Jpeg(1), Jpeg(100, "4:2:0")]
CODECS = [Raw(), *JPEGS, WebP(75), WebPLossless(), Half()]

of_all_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
of_all_codecs = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def pixels(shape, count=5, seed=0):
    """Broad blobs with noise, uint8 (count, *shape), channels-last."""
    draw = torch.Generator().manual_seed(seed)
    blobs = 255 * torch.rand(count, shape[0], 3, 3, generator=draw)
    noise = 30 * torch.randn(count, *shape, generator=draw)
    images = F.interpolate(blobs, size=shape[1:], mode="bilinear") + noise
    return images.clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def by_pillow(image, codec):
    """Pillow's file of one image (c, h, w), and the pixels that it reads there."""
    array = image.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    picture = Image.fromarray(array[:, :, 0] if len(image) == 1 else array)
    picture.save(file, "JPEG", quality=codec.quality, subsampling=codec.subsampling)
    read = torch.from_numpy(np.array(Image.open(file)))
    return file.getvalue(), read.unsqueeze(0) if len(image) == 1 else read.permute(2, 0, 1)


@of_all_shapes
@of_all_codecs
def test_what_is_decoded_has_the_form_of_what_was_encoded(codec, shape):
    before = pixels(shape)
    files = codec.encode(before)
    after = codec.decode(files, shape)
    assert after.dtype == torch.uint8
    assert after.shape == before.shape
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert round_trip(codec, before[:0]).shape == (0, *shape)
    assert torch.equal(round_trip(codec, before.contiguous()), after), "it depends on the layout"
    assert torch.equal(torch.cat([codec.decode([file], shape) for file in files]), after), "it depends on the others"
    if codec.lossless:
        assert torch.equal(before, after)
    if codec.fixed_size:
        assert len({len(file) for file in files}) == 1


@of_all_shapes
@pytest.mark.parametrize("codec", JPEGS, ids=lambda codec: codec.name)
def test_shared_header_part_and_end_are_the_file_that_pillow_writes(codec, shape):
    before = pixels(shape)
    shared, parts = codec.shared(shape), codec.encode(before)
    for image, part, after in zip(before, parts, codec.decode(parts, shape), strict=True):
        whole, read = by_pillow(image, codec)
        assert shared + part + b"\xff\xd9" == whole
        assert torch.equal(after, read)
    assert len(shared) > 300


def test_a_header_ends_at_the_scan_and_not_at_the_first_bytes_that_look_like_it():
    shape = (1, 0xFFDA, 1)  # the height stands in the header
    assert torch.equal(round_trip(Jpeg(100), torch.full((1, *shape), 7, dtype=torch.uint8)).unique(), torch.tensor([7]))


def test_a_pillow_that_writes_other_headers_is_noticed(monkeypatch):
    codec = Jpeg(90)
    codec.shared((3, 8, 8))
    monkeypatch.setattr(Jpeg, "whole", lambda self, image: by_pillow(torch.zeros(3, 8, 8).byte(), Jpeg(10))[0])
    with pytest.raises(RuntimeError, match="two different headers"):
        codec.encode(pixels((3, 8, 8)))


def test_raw_and_half_files_are_pixels():
    before = torch.tensor([[0, 1, 9], [2, 3, 8], [5, 6, 7]], dtype=torch.uint8).expand(1, 1, 3, 3)
    assert Raw().encode(before) == [bytes([0, 1, 9, 2, 3, 8, 5, 6, 7])]
    assert Half().encode(before) == [bytes([2, 8, 6, 7])]  # 1.5, 8.5 and 5.5 go to the even
    assert Half().encode(pixels((3, 4, 6)))[0] == Half().encode(pixels((3, 4, 6)).flip(0))[-1]
    assert len(Half().encode(pixels((3, 9, 13)))[0]) == 3 * 5 * 7


@of_all_shapes
@of_all_codecs
def test_the_value_of_through_is_exactly_what_is_stored(codec, shape):
    latent = pixels(shape) + 40 * torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    stored = codec.decode(codec.encode(latent.round().clamp(0, 255).to(torch.uint8)), shape)
    assert latent.min() < 0
    for floating in (latent, latent.double(), latent.requires_grad_()):
        after = codec.through(floating)
        assert after.dtype == floating.dtype
        assert torch.equal(after, stored.to(after))


def _halved_and_doubled(images):
    _, _, height, width = images.shape
    padded = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
    small = F.interpolate(padded, scale_factor=0.5, mode="area")
    return F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)[:, :, :height, :width]


def _chroma_halved_and_doubled(images):
    if images.shape[1] == 1:
        return images
    to_ycc = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.299 / 1.772, -0.587 / 1.772, 0.5], [0.5, -0.587 / 1.402, -0.114 / 1.402]]
    ).double()
    ycc = torch.einsum("ij,njhw->nihw", to_ycc, images)
    ycc = torch.cat([ycc[:, :1], _halved_and_doubled(ycc[:, 1:])], 1)
    return torch.einsum("ij,njhw->nihw", to_ycc.inverse(), ycc)


LINEAR = {"half": _halved_and_doubled, "webp q75": _chroma_halved_and_doubled}
LINEAR |= {f"jpeg q{quality} 4:2:0": _chroma_halved_and_doubled for quality in (75, 100)}


@of_all_shapes
@of_all_codecs
def test_the_gradient_is_that_of_the_linear_part(codec, shape):
    at = (3 * pixels(shape).double() - 200).requires_grad_()  # clamping is passed straight through too
    weights = torch.randn(at.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((codec.through(at) * weights).sum(), at)
    (wanted,) = torch.autograd.grad((LINEAR.get(codec.name, lambda images: images)(at) * weights).sum(), at)
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-6)


@of_all_shapes
def test_the_linear_part_of_420_is_what_jpeg_does_where_it_hardly_quantises(shape):
    before = (pixels(shape) // 2 + 64).float()
    fine = without_fine_colour(before)
    error = Jpeg(100, "4:2:0").through(before) - fine.clamp(0, 255)
    assert error.abs().max() < 4
    if shape == (3, 32, 32):
        assert (before - fine).square().mean() > 25 * error.square().mean()


@pytest.mark.parametrize("codec", [Jpeg(75), Jpeg(75, "4:2:0"), WebP(75)], ids=lambda codec: codec.name)
def test_small_steps_get_out_of_dead_zones(codec):
    shape = (3, 16, 16)
    target = round_trip(codec, pixels(shape, seed=1)).float()
    latent = (0.75 * target + 0.25 * pixels(shape, seed=2)).round().requires_grad_()
    start = codec.through(latent).detach()
    optimiser = torch.optim.Adam([latent], lr=0.2)
    for step in range(200):
        optimiser.zero_grad()
        after = codec.through(latent)
        assert step != 1 or torch.equal(after, start)
        (after - target).square().mean().backward()
        optimiser.step()
    end = round_trip(codec, latent.detach().round().clamp(0, 255).to(torch.uint8))
    assert (end - target).square().mean() < 0.1 * (start - target).square().mean()


def _file(codec, shape=(3, 8, 8)):
    return codec.encode(pixels(shape, 1))[0]


@pytest.mark.parametrize(
    ("codec", "damaged"),
    [
        (Raw(), _file(Raw())[:-1]),
        (Half(), _file(Half()) + b"\0"),
        (Jpeg(90), b""),
        (Jpeg(90), b"\xff\xd9" + _file(Jpeg(90))),
        (Jpeg(90), _file(Jpeg(90)) + b"\xff"),
        (WebP(75), b""),
        (WebP(75), _file(WebP(75))[:-20]),
        (WebP(75), _file(WebP(75), (3, 8, 9))),
        (WebPLossless(), _file(WebPLossless())[:-20]),
        (WebPLossless(), bytes(100)),
        (WebPLossless(), _file(WebPLossless())[:40] + bytes(len(_file(WebPLossless())) - 40)),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value.name,
)
def test_damage_is_one_clear_line(codec, damaged):
    with pytest.raises(InputError, match="damaged") as caught:
        codec.decode([_file(codec), damaged], (3, 8, 8))
    assert codec.name in str(caught.value)


def test_codecs_have_names():
    codecs = [make(name, 75, "4:2:0") for name in NAMES]
    mixed = Mixed((Jpeg(50, "4:2:0"), Jpeg(75, "4:2:0"), Jpeg(90)))
    assert codecs == [Raw(), Jpeg(75, "4:2:0"), WebP(75), WebPLossless(), Half(), mixed]
    assert [codec.name for codec in codecs[:5]] == ["raw", "jpeg q75 4:2:0", "webp q75", "webp lossless", "half"]
    assert mixed.name == "one of jpeg q50 4:2:0, jpeg q75 4:2:0, jpeg q90 4:4:4"
    assert len(set(codecs)) == 6


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("jpg", 90, "4:4:4"), "did you mean jpeg"),
        (("jpeg", 0, "4:4:4"), "quality 0"),
        (("jpeg", 90, "4:2:2"), "subsampling '4:2:2'"),
        (("webp", 101, "4:4:4"), "quality 101"),
    ],
)
def test_what_no_codec_has_is_refused(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        make(*arguments)


@pytest.mark.parametrize("codec", [Jpeg(90), WebP(75), WebPLossless()], ids=lambda codec: codec.name)
def test_pictures_have_one_or_three_channels(codec):
    with pytest.raises(InputError, match="1 or 3 channels, not 2"):
        codec.encode(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))


MIXED = Mixed((Jpeg(50), Raw(), WebPLossless()))


def test_a_mixture_reads_what_each_of_its_members_wrote():
    before = pixels((3, 16, 16), count=6)
    files, expected = [], []
    for index, codec in enumerate(MIXED.codecs):
        some = before[2 * index : 2 * index + 2]
        written = MIXED.member(index).encode(some)
        assert [len(file) for file in written] == [len(file) + 1 for file in codec.encode(some)]
        files += written
        expected.append(round_trip(codec, some))
    assert torch.equal(MIXED.decode(files[::-1], (3, 16, 16)), torch.cat(expected).flip(0))
    assert MIXED.shared((3, 16, 16)) == Jpeg(50).shared((3, 16, 16))
    with pytest.raises(InputError, match="damaged"):
        MIXED.decode([b"\x07abc"], (3, 16, 16))
