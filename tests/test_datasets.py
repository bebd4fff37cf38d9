import hashlib
import importlib
import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mnemo import datasets
from mnemo.datasets import chunks, cifar, digits, folders, imagenet, load, packing, pictures, torchvision_import
from mnemo.datasets.torchvision_import import import_torchvision
from mnemo.disk import checksums
from mnemo.disk.files import InputError
from mnemo.fewshot.glyphs import read_glyphs


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """An empty data folder, which is also the default one: no test sees the user's."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("MNEMO_DATA_DIR", str(folder))
    return folder


def write_arrays(folder, grey=False, names=("ape", "bee", "cow"), **replaced):
    """Six training and three test images; a keyword replaces the file of that name, None leaves it out."""
    rng = np.random.default_rng(0)
    shape = (5, 4) if grey else (5, 4, 3)
    arrays = {
        "train_images": rng.integers(0, 256, (6, *shape), dtype=np.uint8),
        "train_labels": np.array([0, 1, 2, 2, 1, 0]),
        "test_images": rng.integers(0, 256, (3, *shape), dtype=np.uint8),
        "test_labels": np.array([2, 1, 0], dtype=np.uint8),
    } | replaced
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    if names:
        (folder / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return arrays


def picture(path, size=(8, 6), seed=0, mode="RGB", **options):
    """A real picture file of noise; returns its pixels as they were before encoding."""
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path, **options)
    return pixels


def image_folder(folder, classes=("ape", "bee"), test="test", size=(8, 6), each=2):
    """Pixels of every picture by split, class and number."""
    keys = [(split, name, i) for split in ("train", test) for name in classes for i in range(each)]
    return {
        (split, name, i): picture(folder / split / name / f"{i}.png", size, seed)
        for seed, (split, name, i) in enumerate(keys)
    }


def refused(name, data_dir, *parts):
    """Loading is refused with one line that holds all of ``parts``."""
    with pytest.raises(InputError) as caught:
        load(name, data_dir)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line
    return line


# Names and places


def test_default_folder(monkeypatch, tmp_path):
    assert datasets.default_data_dir() == tmp_path / "data"
    monkeypatch.setenv("MNEMO_DATA_DIR", "~/here")
    assert datasets.default_data_dir() == Path.home() / "here"
    monkeypatch.delenv("MNEMO_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert datasets.default_data_dir() == tmp_path / "mnemo"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert datasets.default_data_dir() == Path.home() / ".cache" / "mnemo"


def test_a_name_in_the_default_folder_and_a_path(data_dir, tmp_path):
    write_arrays(data_dir / "zoo")
    assert load("zoo").class_names == ("ape", "bee", "cow")
    write_arrays(tmp_path / "far" / "zoo", names=("a", "b", "c"))
    assert load(str(tmp_path / "far" / "zoo")).class_names == ("a", "b", "c")
    assert load("zoo", tmp_path / "far").class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cifra100", ["did you mean cifar100?"]),
        ("zo", ["did you mean zoo?"]),
        ("qqqq", ["mnemo data list"]),
        ("", ["no data set ''"]),
        ("a\0b", ["no data set"]),
        ("x" * 300, ["no data set"]),
        ("empty", ["empty: no data set", "train_images.npy", "train/CLASS/"]),
        ("cifar100", ["mnemo data fetch cifar100", "cifar-100-python"]),
        ("imagenet-subset", ["mnemo data import", "imagenet"]),
        ("omniglot", ["omniglot28", "github.com/brendenlake/omniglot"]),
        ("mini-imagenet-100", ["mini-imagenet-100", "test/WNID/*"]),
        ("cub200", ["cub200", "train_test_split.txt"]),
    ],
)
def test_what_is_missing_is_named_with_its_mend(name, parts, data_dir):
    write_arrays(data_dir / "zoo")
    (data_dir / "empty").mkdir()
    refused(name, data_dir, *parts)


def test_available(data_dir, tmp_path):
    assert [(entry.name, entry.where) for entry in datasets.available(tmp_path / "nowhere")] == [
        ("digits", "scikit-learn"),
        ("cifar100", None),
        ("imagenet-subset", None),
        ("glyphs", "matplotlib"),
        ("omniglot", None),
        ("mini-imagenet-100", None),
        ("cub200", None),
    ]
    write_arrays(data_dir / "zoo")
    write_arrays(data_dir / "cifar100")
    write_arrays(data_dir / ".zoo.part")
    image_folder(data_dir / "album")
    (data_dir / "notes").mkdir()
    found = {entry.name: entry for entry in datasets.available()}
    assert [*found] == [*datasets.KNOWN, "album", "zoo"]
    assert found["cifar100"].where == str(data_dir / "cifar100")
    assert found["album"].description == "an image folder"


def test_importing_the_module_is_light():
    heavy = ("torchvision", "PIL", "matplotlib", "sklearn")
    code = f"import sys, mnemo.datasets; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Digits


def test_digits():
    data = load("digits")
    assert data.train.shape == data.test.shape == (1, 8, 8)
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.class_names == tuple("0123456789")
    assert int(data.train.pixels.min()) == 0
    assert int(data.train.pixels.max()) == 255
    share = data.test.labels.bincount() / (data.test.labels.bincount() + data.train.labels.bincount())
    assert share.min() > 0.19
    assert share.max() < 0.21
    assert torch.equal(data.test.pixels, load("digits").test.pixels)


def test_digits_split_and_levels_follow_the_source():
    from sklearn.datasets import load_digits

    source = load_digits()
    nines = source.images[source.target == 9]
    data = digits.load_digits()
    expected = torch.from_numpy(nines[2::5]) * 255 / 16
    assert (data.test.of_classes([9]).pixels[:, 0] - expected).abs().max() <= 0.5


# Glyphs and Omniglot


def test_glyphs_are_all_there_in_both_parts():
    data = load("glyphs")
    splits = read_glyphs()
    assert data.class_names == tuple(name for split in splits for name in split.class_names)
    assert len({*data.class_names}) == 238
    assert data.train.labels.bincount().tolist() == [20] * 238
    assert data.test.labels.bincount().tolist() == [10] * 238
    last = splits[2].images.of_classes([49]).pixels
    assert torch.equal(data.train.of_classes([237]).pixels, last[:20])
    assert torch.equal(data.test.of_classes([237]).pixels, last[20:])
    assert datasets.check("glyphs").endswith("where: matplotlib")


def omniglot(folder, each):
    """Three background classes, the second of a validation alphabet, and one to evaluate; pixels say which drawing."""
    folder.mkdir()
    for split, labels in (("train", [0, 1, 2]), ("test", [3])):
        labels = np.tile(labels, each)  # drawer after drawer
        drawings = 10 * labels + 5 * np.arange(each).repeat(len(labels) // each)
        np.save(folder / f"{split}_labels.npy", labels)
        np.save(
            folder / f"{split}_images.npy", np.ones((1, 28, 28), np.uint8) * drawings[:, None, None].astype(np.uint8)
        )
    names = ["Greek/character01", "Tagalog/character01", "Latin/character01", "Ge_ez/character01"]
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))


@pytest.mark.parametrize("folder", ["omniglot28", "omniglot"])
def test_omniglot_joins_background_and_evaluation(folder, data_dir):
    omniglot(data_dir / folder, 20)
    data = load("omniglot")
    names = ("Greek/character01", "Latin/character01", "Tagalog/character01", "Ge_ez/character01")
    assert data.class_names == names
    assert data.train.labels.bincount().tolist() == [15] * 4
    assert data.test.labels.bincount().tolist() == [5] * 4
    for label, published in enumerate((0, 2, 1, 3)):
        drawings = [10 * published + 5 * drawer for drawer in range(20)]
        assert data.train.of_classes([label]).pixels[:, 0, 0, 0].tolist() == drawings[:15]
        assert data.test.of_classes([label]).pixels[:, 0, 0, 0].tolist() == drawings[15:]
    assert str(data_dir / folder) in datasets.check("omniglot")
    assert {entry.name: entry.where for entry in datasets.available()}["omniglot"] == str(data_dir / folder)


def test_omniglot_with_too_few_drawings(data_dir):
    omniglot(data_dir / "omniglot", 15)
    refused("omniglot", data_dir, "Greek/character01: 15 drawings", "none would be left")


# Folders of arrays


def test_arrays(data_dir):
    arrays = write_arrays(data_dir / "zoo")
    data = load("zoo", data_dir)
    assert data.train.shape == (3, 5, 4)
    assert torch.equal(data.train.pixels.permute(0, 2, 3, 1), torch.from_numpy(arrays["train_images"]))
    assert torch.equal(data.test.pixels.permute(0, 2, 3, 1), torch.from_numpy(arrays["test_images"]))
    assert data.train.labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert data.test.labels.tolist() == [2, 1, 0]
    assert data.train.labels.dtype == torch.int64


def test_grey_arrays(data_dir):
    arrays = write_arrays(data_dir / "zoo", grey=True)
    data = load("zoo", data_dir)
    assert data.train.shape == (1, 5, 4)
    assert torch.equal(data.train.pixels[:, 0], torch.from_numpy(arrays["train_images"]))


def test_names_without_a_list(data_dir):
    write_arrays(data_dir / "zoo", names=())
    assert load("zoo", data_dir).class_names == ("0", "1", "2")


def test_pixels_are_a_view_of_a_memory_map(data_dir):
    folder = data_dir / "large"
    arrays = write_arrays(folder)
    shape = (3_000, 100, 100, 3)  # 90 MB
    np.lib.format.open_memmap(folder / "train_images.npy", mode="w+", dtype=np.uint8, shape=shape)[7, 1, 2, 0] = 9
    np.save(folder / "train_labels.npy", np.arange(3_000) % 3)
    np.save(folder / "test_images.npy", np.zeros((3, 100, 100, 3), dtype=np.uint8))
    before = resident_bytes()
    data = load("large", data_dir)
    assert resident_bytes() - before < 10_000_000
    assert data.train.pixels.is_contiguous(memory_format=torch.channels_last)
    assert data.train.pixels.untyped_storage().nbytes() == np.prod(shape)  # the map itself: no copy was made
    assert data.train.pixels[7, 0, 1, 2] == 9
    data.train.pixels[7] = 5  # private: the file stays
    assert load("large", data_dir).train.pixels[7, 0, 1, 2] == 9
    assert arrays["test_labels"].tolist() == data.test.labels.tolist()


def resident_bytes():
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def many(*labels):
    return {"train_labels": np.array(labels)}


@pytest.mark.parametrize(
    ("replaced", "parts"),
    [
        ({"test_labels": None}, ["test_labels.npy: missing", "train_images.npy"]),
        ({"train_images": None}, ["train_images.npy: missing"]),
        ({"train_images": np.zeros((6, 5, 4, 3))}, ["train_images.npy: float64", "must be uint8"]),
        ({"train_images": np.zeros((6, 3, 5, 4), np.uint8)}, ["6 x 3 x 5 x 4", "n x height x width x 3"]),
        ({"train_images": np.zeros((6, 5), np.uint8)}, ["6 x 5"]),
        ({"train_images": np.asfortranarray(np.zeros((6, 5, 4, 3), np.uint8))}, ["Fortran"]),
        ({"test_images": np.zeros((3, 5, 5, 3), np.uint8)}, ["3 x 5 x 5", "3 x 5 x 4", "one shape"]),
        ({"test_images": np.zeros((3, 5, 4), np.uint8)}, ["1 x 5 x 4", "one shape"]),
        ({"train_labels": np.zeros(6)}, ["train_labels.npy: float64", "integers"]),
        ({"train_labels": np.zeros((6, 1), int)}, ["6 x 1"]),
        ({"train_labels": np.array([True] * 6)}, ["bool"]),
        (many(0, 1, 2), ["3 labels for 6 images"]),
        (many(0, 1, 2, 0, 1, 3), ["labels 0 to 3", "3 classes", "must be 0 to 2"]),
        (many(0, 1, 2, 0, 1, -1), ["labels -1 to 2"]),
        (many(0, 1, 1, 0, 1, 0), ["train_labels.npy: no image of class 2 (cow)"]),
        ({"train_labels": np.array([0, 1, 2, 0, 1, 2**64 - 1], np.uint64)}, ["18446744073709551615"]),
        ({"test_labels": np.array([0, 0, 2])}, ["test_labels.npy: no image of class 1 (bee)"]),
        ({"test_labels": np.array([], int), "test_images": np.zeros((0, 5, 4, 3), np.uint8)}, ["test_"]),
        ({"train_labels": np.array([0] * 6, dtype=object)}, ["train_labels.npy: not a .npy array"]),
    ],
)
def test_unsound_arrays_are_refused(replaced, parts, data_dir):
    write_arrays(data_dir / "zoo", **replaced)
    refused("zoo", data_dir, str(data_dir / "zoo"), *parts)


def test_labels_without_a_list_have_no_gaps(data_dir):
    write_arrays(data_dir / "zoo", names=(), train_labels=np.array([0, 2, 10**9, 2, 0, 2]))
    refused("zoo", data_dir, "labels 0 to 1000000000", "3 classes")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"ape\nbee\nape\n", "'ape' stands there twice"),
        (b"ape\nbee\n", "2 classes"),
        (b"ape\nbee\ncow\ndog\n", "no image of class 3 (dog)"),
        (b"\xff\xfe", "UTF-8"),
        (b"", "0 classes"),
    ],
)
def test_unsound_class_names_are_refused(content, part, data_dir):
    write_arrays(data_dir / "zoo")
    (data_dir / "zoo" / "classes.txt").write_bytes(content)
    refused("zoo", data_dir, str(data_dir / "zoo"), part)


@pytest.mark.parametrize("keep", [0, 5, 60, 200])
def test_a_damaged_array_is_refused(keep, data_dir):
    write_arrays(data_dir / "zoo")
    path = data_dir / "zoo" / "train_images.npy"
    path.write_bytes(path.read_bytes()[:keep])
    refused("zoo", data_dir, "train_images.npy: not a .npy array, or damaged")


def test_check_describes(data_dir):
    write_arrays(data_dir / "zoo", train_labels=np.array([0, 1, 2, 2, 2, 0]))
    lines = datasets.check("zoo", data_dir).splitlines()
    assert lines == [
        "zoo: 3 classes, 3 x 5 x 4 (channels, height, width)",
        "train: 6 images, 1 to 3 of each class",
        "test: 3 images, 1 of each class",
        "pixels: 540 bytes",
        f"where: {data_dir / 'zoo'} (arrays)",
    ]
    assert datasets.check("digits").endswith("where: scikit-learn")


# Image folders


@pytest.mark.parametrize("test", ["test", "val"])
def test_image_folder(test, data_dir):
    pixels = image_folder(data_dir / "album", test=test)
    data = load("album", data_dir)
    assert data.class_names == ("ape", "bee")
    assert data.train.shape == (3, 6, 8)
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(data.train.pixels[3].permute(1, 2, 0), pixels["train", "bee", 1])
    assert np.array_equal(data.test.pixels[2].permute(1, 2, 0), pixels[test, "bee", 0])


def test_val_is_taken_where_test_has_no_classes(data_dir):
    image_folder(data_dir / "album", test="val")
    picture(data_dir / "album" / "test" / "unlabelled.png")
    assert len(load("album", data_dir).test) == 4


def test_pictures_are_decoded_once(data_dir):
    image_folder(data_dir / "album")
    calls = []
    load("album", data_dir, lambda done, total: calls.append((done, total)))
    assert calls == [(i, 8) for i in range(1, 9)]
    data = load("album", data_dir, lambda done, total: pytest.fail("decoded again"))
    assert data.train.pixels.untyped_storage().nbytes() == 4 * 6 * 8 * 3
    pack = {path.name for path in (data_dir / "album").glob(".*")}
    assert len(pack) == 1
    new = picture(data_dir / "album" / "train" / "ape" / "0.png", seed=77)
    os.utime(data_dir / "album" / "train" / "ape" / "0.png", ns=(1, 1))
    assert np.array_equal(load("album", data_dir).train.pixels[0].permute(1, 2, 0), new)


def test_a_folder_that_cannot_be_written_is_packed_elsewhere(data_dir, tmp_path, monkeypatch):
    image_folder(tmp_path / "album")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert len(load(str(tmp_path / "album")).train) == 4
    assert not [*(tmp_path / "album").glob(".*")]
    assert len([*(data_dir / "packed").glob(".packed-*")]) == 1
    load(str(tmp_path / "album"), None, lambda done, total: pytest.fail("decoded again"))


def test_formats_and_modes(data_dir):
    album = data_dir / "album"
    image_folder(album)
    grey = picture(album / "train" / "ape" / "a-grey.PNG", mode="L")
    alpha = picture(album / "train" / "ape" / "b-alpha.png", mode="RGBA")
    picture(album / "train" / "ape" / "c.jpeg", quality=90)
    palette = Image.fromarray(grey.squeeze()).convert("P")
    palette.save(album / "train" / "ape" / "d.png", transparency=bytes(range(256)))
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(album / "train" / "ape" / "e.gif", save_all=True, append_images=frames[1:])
    (album / "train" / "ape" / "README.txt").write_text("no picture")
    (album / "train" / "ape" / ".hidden.png").write_text("no picture")
    pixels = load("album", data_dir).train.pixels.permute(0, 2, 3, 1).numpy()
    assert len(pixels) == 9
    assert np.array_equal(pixels[2], grey.repeat(3, axis=2))
    assert np.array_equal(pixels[3], alpha[..., :3])
    assert np.array_equal(pixels[5], grey.repeat(3, axis=2))
    assert (pixels[6] == [255, 0, 0]).all()


def test_large_pictures_are_brought_to_256(data_dir):
    image_folder(data_dir / "album", each=1, size=(300, 400))
    picture(data_dir / "album" / "train" / "ape" / "1.png", size=(70, 90))
    assert load("album", data_dir).train.shape == (3, 256, 256)


def test_one_size_up_to_256_is_kept(data_dir):
    image_folder(data_dir / "album", each=1, size=(84, 84))
    assert load("album", data_dir).train.shape == (3, 84, 84)


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (256, 259), (100, 71), (300, 300)])
def test_resizing_is_that_of_torchvision(size, tmp_path):
    original = Image.fromarray(picture(tmp_path / "a.png", size))
    transforms = import_torchvision().transforms
    expected = transforms.CenterCrop(256)(transforms.Resize(256)(original))
    assert np.array_equal(pictures.decode(tmp_path / "a.png", (256, 256)), np.asarray(expected))


def test_a_strip_is_not_enlarged(tmp_path):
    Image.new("RGB", (20_000, 1), "red").save(tmp_path / "a.png")
    with pytest.raises(InputError, match="more than 100 times as long as wide"):
        pictures.decode(tmp_path / "a.png", (256, 256))


def test_small_pictures_of_several_sizes_are_refused(data_dir):
    image_folder(data_dir / "album")
    odd = data_dir / "album" / "train" / "bee" / "0.png"
    picture(odd, size=(9, 6))
    refused("album", data_dir, str(odd), "9 x 6", "8 x 6", "--image-size")
    where = datasets.import_(data_dir / "album", "square", data_dir, image_size=5)
    assert load("square", data_dir).train.shape == (3, 5, 5)
    assert where == data_dir / "square"
    with pytest.raises(InputError, match="image size of 0 pixels"):
        datasets.import_(data_dir / "album", "none", data_dir, image_size=0)


def damage_text(path):
    path.write_text("no picture at all")


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:60])


def damage_16_bits(path):
    Image.fromarray(np.full((6, 8), 60_000, dtype=np.uint16)).save(path)


def damage_other_format(path):
    Image.new("RGB", (8, 6)).save(path, format="EPS")


@pytest.mark.parametrize("damage", [damage_text, damage_cut, damage_16_bits, damage_other_format])
def test_a_picture_that_cannot_be_decoded_is_named(damage, data_dir):
    image_folder(data_dir / "album")
    path = data_dir / "album" / "test" / "bee" / "1.png"
    damage(path)
    refused("album", data_dir, f"{path}: cannot be decoded", "mend or remove")
    assert not [*(data_dir / "album").glob(".*")]  # nothing half-packed is left


def test_a_decompression_bomb_is_refused(data_dir, monkeypatch):
    image_folder(data_dir / "album")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow warns from here, and refuses from twice as many
    refused("album", data_dir, "0.png: cannot be decoded", "decompression bomb")


def test_links_stay_inside(data_dir, tmp_path):
    album = data_dir / "album"
    image_folder(album)
    (album / "train" / "ape" / "inner.png").symlink_to(album / "train" / "ape" / "0.png")
    assert len(load("album", data_dir).train) == 5
    picture(tmp_path / "secret.png")
    link = album / "train" / "bee" / "outer.png"
    link.symlink_to(tmp_path / "secret.png")
    refused("album", data_dir, f"{link}: a link that leads out")
    link.unlink()
    image_folder(tmp_path / "other")
    (album / "train" / "cat").symlink_to(tmp_path / "other" / "train" / "ape")
    picture(album / "test" / "cat" / "0.png")
    refused("album", data_dir, "cat: a link that leads out")


def test_a_linked_data_set_is_fine(data_dir, tmp_path):
    image_folder(tmp_path / "far")
    (data_dir / "album").symlink_to(tmp_path / "far")
    assert len(load("album", data_dir).train) == 4


def test_classes_must_match_and_have_pictures(data_dir):
    image_folder(data_dir / "album")
    picture(data_dir / "album" / "train" / "cat" / "0.png")
    refused("album", data_dir, "test: no folder of class cat")
    (data_dir / "album" / "test" / "cat").mkdir()
    refused("album", data_dir, f"{data_dir / 'album' / 'test' / 'cat'}: no pictures")
    (data_dir / "flat" / "train").mkdir(parents=True)
    (data_dir / "flat" / "val").mkdir()
    refused("flat", data_dir, "train: no class folders")


def test_too_little_room_is_said_at_once(data_dir, monkeypatch):
    image_folder(data_dir / "album")
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    refused("album", data_dir, "1,152 bytes", "1,000 are free")


# Packs


@pytest.fixture
def album(data_dir, monkeypatch):
    """Ten pictures of each class to train on, two to test on; two make a chunk."""
    monkeypatch.setattr(chunks, "CHUNK", 2)
    image_folder(data_dir / "album", each=2)
    for seed in range(2, 10):
        for name in ("ape", "bee"):
            picture(data_dir / "album" / "train" / name / f"{seed}.png", seed=seed)
    return data_dir / "album"


def decoded(monkeypatch):
    """The names of the pictures that are decoded from now on."""
    names = []
    decode = pictures.decode

    def noted(path, size):
        names.append(f"{path.parent.parent.name}/{path.parent.name}/{path.name}")
        return decode(path, size)

    monkeypatch.setattr(packing, "decode", noted)
    return names


def interrupt_at(count):
    """A progress that breaks off when so many pictures are done."""

    def progress(done, total):
        if done == count:
            raise KeyboardInterrupt

    return progress


def packs(folder):
    return [path for path in folder.glob(".packed-*") if path.suffix != ".partial"]


def pack_of(folder):
    (place,) = packs(folder)
    return place


def test_a_pack_opens_in_numpy_and_says_what_it_is(album):
    load("album")
    place = pack_of(album)
    index = chunks.read_index(place)
    assert (index.images, index.height, index.width, index.chunk) == ({"train": 20, "test": 4}, 6, 8, 2)
    pixels = np.load(place / "train_images.npy", mmap_mode="r")
    assert pixels.shape == (20, 6, 8, 3)
    sums = [zlib.crc32(pixels[start : start + 2].tobytes()) for start in range(0, 20, 2)]
    assert [chunk.crc32 for chunk in index.whole["train"]] == sums
    assert datasets.check("album").endswith("checksums: 12 of 12 as they were packed")


def test_an_interrupted_pack_goes_on_behind_its_last_whole_chunk(album, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        load("album", None, interrupt_at(9))
    (partial,) = album.glob(".*.partial")
    assert not packs(album)
    with (partial / "train_images.npy").open("ab") as file:
        file.write(b"half an image")  # what a kill may leave behind the chunks
    names, calls = decoded(monkeypatch), []
    data = load("album", None, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 24) for done in range(8, 25)]
    assert len(names) == 16
    assert "train/ape/7.png" not in names
    assert not [*album.glob(".*.partial")]
    monkeypatch.undo()
    whole = datasets.import_(album, "whole", album.parent)
    assert torch.equal(data.train.pixels, folders.load_arrays(whole).train.pixels)


def test_a_killed_process_loses_no_whole_chunk(album, monkeypatch):
    code = (
        "import os, signal; from mnemo import datasets; from mnemo.datasets import chunks; chunks.CHUNK = 2\n"
        "datasets.load('album', None, lambda done, _: os.kill(os.getpid(), signal.SIGKILL) if done == 15 else None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    names = decoded(monkeypatch)
    load("album")
    assert len(names) == 24 - 14


def test_a_damaged_chunk_of_an_interrupted_pack_is_made_again(album, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        load("album", None, interrupt_at(9))
    (partial,) = album.glob(".*.partial")
    damage(partial / "train_images.npy", 128 + 3 * 144)
    names = decoded(monkeypatch)
    load("album")
    assert len(names) == 24 - 2
    assert "checksums: 12" in datasets.check("album")


def damage(path, position):
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))


def test_a_mended_picture_costs_what_comes_after_it(album, monkeypatch):
    path = album / "train" / "bee" / "6.png"
    damage_cut(path)
    refused("album", None, str(path))
    picture(path)
    names = decoded(monkeypatch)
    load("album")
    assert len(names) == 24 - 16


def test_changed_pictures_are_packed_again_with_a_line(album, caplog):
    load("album")
    new = picture(album / "train" / "bee" / "3.png", seed=99)
    data = load("album")
    assert np.array_equal(data.train.pixels[13].permute(1, 2, 0), new)
    (line,) = caplog.messages
    assert line == f"{album}: the pictures have changed since they were packed; packing again"
    assert [path.name for path in album.glob(".*")] == [pack_of(album).name]  # the old one is gone


@pytest.mark.parametrize("name", ["train_images.npy", "index.json"])
def test_a_pack_that_is_not_whole_is_made_again(name, album, caplog):
    first = load("album").train.pixels.clone()
    path = pack_of(album) / name
    path.write_bytes(path.read_bytes()[:-1] if name.endswith("npy") else b"{")
    assert torch.equal(load("album").train.pixels, first)
    (line,) = caplog.messages
    assert name in line


def test_checksums_find_a_changed_pixel(album):
    load("album")
    path = pack_of(album) / "train_images.npy"
    damage(path, 128 + 5 * 144)
    with pytest.raises(InputError, match=f"{path}: damaged"):
        load("album")
    (path.parent / checksums.NAME).unlink()  # as where a file is too large to be read at every start
    load("album")
    with pytest.raises(InputError, match=rf"{path}: damaged among images 4 to 5; remove"):
        datasets.check("album")


def test_of_two_processes_one_packs(album, monkeypatch):
    with ThreadPoolExecutor(2) as pool:  # a lock is held by a descriptor, not by a process
        names = decoded(monkeypatch)
        first, second = pool.map(lambda _: datasets.pack("album"), range(2))
    assert first == second == pack_of(album)
    assert len(names) == 24


def test_pictures_are_packed_by_command(album):
    assert datasets.pack("album", workers=1) == pack_of(album)
    with pytest.raises(InputError, match="digits: there is nothing to pack"):
        datasets.pack("digits")
    with pytest.raises(InputError, match="no data set 'abum'"):
        datasets.pack("abum")


def test_an_import_that_was_interrupted_goes_on(album, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        datasets.import_(album, "zoo", progress=interrupt_at(21))
    names = decoded(monkeypatch)
    datasets.import_(album, "zoo")
    assert len(names) == 4
    assert len(load("zoo").train) == 20
    assert "checksums: 12" in datasets.check("zoo")


def test_a_camera_held_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the picture
    picture(tmp_path / "a.png", size=(8, 6), exif=exif)
    turned = Image.open(tmp_path / "a.png").transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(pictures.decode(tmp_path / "a.png", (6, 8)), np.asarray(turned))
    assert pictures.common_size([tmp_path / "a.png"], None) == (6, 8)


def test_inks_become_colours(tmp_path):
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    pixels = pictures.decode(tmp_path / "a.jpg", (8, 6))
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() < 5


def test_an_empty_file_is_named(data_dir):
    image_folder(data_dir / "album")
    path = data_dir / "album" / "train" / "ape" / "0.png"
    path.write_bytes(b"")
    refused("album", data_dir, f"{path}: cannot be decoded")


# ImageNet-Subset


def test_subset_is_the_literature_choice():
    wnids = [f"n{i:08d}" for i in range(1000)]
    np.random.seed(1993)  # noqa: NPY002
    expected = sorted(np.random.choice(wnids, 100, replace=False))  # noqa: NPY002
    assert imagenet.subset_classes(wnids[::-1]) == expected
    assert imagenet.subset_classes(wnids[99::-1]) == wnids[:100]


@pytest.mark.parametrize("count", [99, 101, 999])
def test_other_numbers_of_classes_are_refused(count):
    with pytest.raises(ValueError, match=f"{count} class folders"):
        imagenet.subset_classes([str(i) for i in range(count)])


def test_subset_of_an_image_folder(data_dir):
    image_folder(data_dir / "imagenet-subset", test="val", each=1)
    refused("imagenet-subset", data_dir, str(data_dir / "imagenet-subset" / "train"), "2 class folders")


def test_subset_is_chosen_from_imagenet(data_dir, monkeypatch):
    monkeypatch.setattr(pictures, "LARGE", 4)
    root = data_dir / "imagenet"
    for split in ("train", "val"):
        for i in range(1000):
            (root / split / f"n{i:04d}").mkdir(parents=True)
    wanted = imagenet.subset_classes([f"n{i:04d}" for i in range(1000)])
    for name in wanted:  # the other classes are not even looked into
        picture(root / "train" / name / "a.jpg", size=(9, 7))
        picture(root / "val" / name / "b.jpg", size=(5, 8))
    data = load("imagenet-subset", data_dir)
    assert data.class_names == tuple(wanted)
    assert data.train.shape == (3, 4, 4)
    assert data.train.labels.tolist() == [*range(100)]
    imported = datasets.import_(root, "imagenet-subset", data_dir)
    assert folders.load_arrays(imported).class_names == tuple(wanted)


# CIFAR-100


class OldDtype(pickle._Pickler):
    """Writes a dtype as the NumPy of 2009 did, with a number for `align`."""

    def reducer_override(self, thing):
        return (np.dtype, (thing.str[1:], 0, 1)) if isinstance(thing, np.dtype) else NotImplemented


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small archive in CIFAR-100's own form, whose MD5 sums torchvision is told to expect."""
    rng = np.random.default_rng(3)
    content = {"meta": {"fine_label_names": [f"class {i}" for i in range(100)]}}
    for split, n in (("train", 200), ("test", 100)):
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        content[split] = {"data": data, "fine_labels": [i % 100 for i in range(n)]}
    root = tmp_path / "source" / "cifar-100-python"
    root.mkdir(parents=True)
    sums = {}
    for name, value in content.items():
        buffer = io.BytesIO()
        OldDtype(buffer, protocol=2).dump(value)
        (root / name).write_bytes(buffer.getvalue())
        sums[name] = hashlib.md5(buffer.getvalue()).hexdigest()
    with tarfile.open(tmp_path / "source" / "cifar-100-python.tar.gz", "w:gz") as tar:
        tar.add(root, arcname="cifar-100-python")
    source = import_torchvision().datasets.CIFAR100
    monkeypatch.setattr(source, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(source, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": sums["meta"]})
    monkeypatch.setattr(source, "url", (tmp_path / "source" / "cifar-100-python.tar.gz").as_uri())
    return root, content


def test_cifar100_archive_is_read(archive, data_dir):
    root, content = archive
    root.rename(data_dir / "cifar-100-python")
    data = load("cifar100", data_dir)
    assert data.class_names[99] == "class 99"
    assert data.train.pixels.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(data.train.pixels.reshape(200, -1), content["train"]["data"])
    assert np.array_equal(data.test.pixels.reshape(100, -1), content["test"]["data"])
    assert "(archive)" in datasets.check("cifar100", data_dir)


@pytest.mark.parametrize("source", ["cifar-100-python", "cifar-100-python.tar.gz", "."])
def test_cifar100_is_imported(source, archive, data_dir):
    root, content = archive
    assert datasets.import_(root.parent / source, None, data_dir) == data_dir / "cifar100"
    data = load("cifar100", data_dir)
    assert np.array_equal(data.train.pixels.reshape(200, -1), content["train"]["data"])
    assert data.class_names[:2] == ("class 0", "class 1")
    assert sorted(path.name for path in data_dir.iterdir()) == ["cifar100"]


def test_cifar100_is_fetched(archive, data_dir):
    calls = []
    line = datasets.fetch("cifar100", None, lambda done, total: calls.append((done, total)))
    assert line == f"cifar100: fetched into {data_dir / 'cifar100'}"
    assert calls[-1][0] == calls[-1][1] > 0
    assert len(load("cifar100").train) == 200
    assert datasets.fetch("cifar100") == f"cifar100: already in {data_dir / 'cifar100'}"
    assert sorted(path.name for path in data_dir.iterdir()) == ["cifar100"]


def test_no_way_to_cifar100(archive, data_dir, tmp_path, monkeypatch):
    gone = (tmp_path / "gone").as_uri()
    monkeypatch.setattr(import_torchvision().datasets.CIFAR100, "url", gone)
    with pytest.raises(InputError, match=r"cannot be downloaded .* `mnemo data import"):
        datasets.fetch("cifar100")
    assert not [*data_dir.iterdir()]


def test_nothing_is_downloaded_where_something_lies(archive, data_dir):
    (data_dir / "cifar100").mkdir()
    with pytest.raises(InputError, match="there already"):
        datasets.fetch("cifar100", data_dir, lambda done, total: pytest.fail("downloaded"))


def test_a_damaged_cifar100_is_not_opened(archive, data_dir):
    root, _ = archive
    (root / "train").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")  # would run a program when unpickled
    root.rename(data_dir / "cifar-100-python")
    refused("cifar100", data_dir, "MD5", "mnemo data fetch cifar100")


def test_a_real_checksum_is_asked_for(data_dir):
    for name in cifar.FILES:
        (data_dir / "cifar-100-python").mkdir(exist_ok=True)
        (data_dir / "cifar-100-python" / name).write_bytes(pickle.dumps({}))
    refused("cifar100", data_dir, "MD5")


def test_an_archive_with_other_content_is_refused_by_its_own_name(archive, data_dir):
    root, _ = archive
    (root / "test").write_bytes(pickle.dumps({}))
    path = root.parent / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(root, arcname=root.name)
    with pytest.raises(InputError, match=rf"{path}: damaged, or not CIFAR-100 .*MD5"):
        datasets.import_(path, None, data_dir)
    assert not [*data_dir.iterdir()]


@pytest.mark.parametrize("damage", ["cut", "no gzip", "other"])
def test_a_damaged_archive_is_refused(damage, archive, data_dir):
    path = archive[0].parent / "cifar-100-python.tar.gz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "no gzip":
        path.write_bytes(b"no archive")
    else:
        with tarfile.open(path, "w:gz") as tar:
            tar.add(archive[0], arcname="../evil")
    with pytest.raises(InputError, match="damaged, or not the archive of CIFAR-100"):
        datasets.import_(path, None, data_dir)
    assert not [*data_dir.iterdir()]


# Import and fetch


def test_import_of_arrays_copies_what_belongs(data_dir, tmp_path):
    arrays = write_arrays(tmp_path / "zoo")
    (tmp_path / "zoo" / "notes.txt").write_text("not part of it")
    calls = []
    where = datasets.import_(tmp_path / "zoo", progress=lambda done, total: calls.append((done, total)))
    assert where == data_dir / "zoo"
    assert sorted(path.name for path in where.iterdir()) == sorted((*folders.ARRAYS, folders.CLASSES))
    assert np.array_equal(load("zoo").train.pixels.permute(0, 2, 3, 1), arrays["train_images"])
    assert calls[-1] == (5, 5)


def test_import_overwrites_nothing_and_leaves_nothing_half_done(data_dir, tmp_path):
    write_arrays(tmp_path / "zoo")
    datasets.import_(tmp_path / "zoo")
    with pytest.raises(InputError, match="there already"):
        datasets.import_(tmp_path / "zoo")
    write_arrays(tmp_path / "bad", train_labels=np.zeros(5, int))
    with pytest.raises(InputError, match=r"bad/train_labels.npy: 5 labels for 6"):
        datasets.import_(tmp_path / "bad")
    assert sorted(path.name for path in data_dir.iterdir()) == ["zoo"]


def test_import_into_a_place_that_refuses(tmp_path):
    write_arrays(tmp_path / "zoo")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"[Nn]ot a directory"):
        datasets.import_(tmp_path / "zoo", None, tmp_path / "file" / "data")


@pytest.mark.parametrize("name", ["digits", "glyphs", "../zoo", ".zoo", "a b", "a/b"])
def test_names_that_cannot_be_imported(name, data_dir, tmp_path):
    write_arrays(tmp_path / "zoo")
    with pytest.raises(InputError, match="give it another name"):
        datasets.import_(tmp_path / "zoo", name)
    assert not [*data_dir.iterdir()]


def test_sources_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        datasets.import_(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no data set; .* cifar-100-python.tar.gz"):
        datasets.import_(tmp_path / "empty")


def test_fetch_of_the_others(data_dir):
    assert "nothing to fetch" in datasets.fetch("digits")
    with pytest.raises(InputError, match="mnemo data import"):
        datasets.fetch("imagenet-subset")
    with pytest.raises(InputError, match="only cifar100"):
        datasets.fetch("zoo")
    assert datasets.fetch("glyphs") == "glyphs: comes with matplotlib, nothing to fetch"
    with pytest.raises(InputError, match="train_test_split"):
        datasets.fetch("cub200")


def test_mini_imagenet_is_brought_to_84(data_dir):
    image_folder(data_dir / "mini-imagenet-100", size=(100, 90), each=1)
    assert load("mini-imagenet-100").train.shape == (3, 84, 84)


def test_written_arrays_are_read_again(tmp_path):
    data = load("digits")
    folders.write_arrays(tmp_path, data)
    again = folders.load_arrays(tmp_path)
    assert torch.equal(again.train.pixels, data.train.pixels)
    assert torch.equal(again.test.labels, data.test.labels)
    assert again.class_names == data.class_names


# torchvision beside a CPU-only torch


def test_torchvision_imports_and_works():
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision
    v2 = importlib.import_module("torchvision.transforms.v2")
    assert v2.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)
    assert torchvision.models.resnet18(num_classes=2)


def test_a_healthy_torchvision_is_left_alone():
    import_torchvision()
    declared = torchvision_import._declare_schemas.cache_info().misses
    before = sys.modules["torchvision"]
    assert import_torchvision() is before
    assert torchvision_import._declare_schemas.cache_info().misses == declared


def test_other_errors_of_torchvision_pass(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::roi does not exist')")
    code = "from mnemo.datasets.torchvision_import import import_torchvision as f; f()"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stderr.strip().endswith("RuntimeError: operator torchvision::roi does not exist")
    assert "torch.library" not in done.stderr
