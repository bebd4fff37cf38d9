"""Few-shot data sets: the published splits to the class, glyphs that can be told apart, and what is missing."""

import os
import unicodedata
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from mnemo.augment import CropAndFlip
from mnemo.disk.files import InputError
from mnemo.fewshot import cifar_splits, data, glyph_classes, glyphs, mini_imagenet_classes, omniglot
from mnemo.fewshot.data import DATA, load

# As TADAM's create_dataset_cifar100.py and r2d2's lists have them, by the fine labels of CIFAR-100, whose order is the
# alphabet's; what is in none of them is for training.
FC100_COARSE = {"validation": [8, 11, 13, 16], "test": [0, 7, 12, 14]}
# fmt: off
FC100_VALIDATION = [3, 15, 19, 21, 26, 31, 36, 38, 42, 43, 45, 50, 65, 74, 77, 79, 80, 88, 97, 99]
FC100_TEST = [2, 4, 6, 7, 11, 14, 18, 24, 30, 34, 35, 46, 55, 63, 64, 66, 72, 75, 95, 98]
CIFAR_FS_VALIDATION = [4, 7, 14, 15, 19, 26, 27, 32, 40, 47, 48, 55, 71, 73, 87, 89]
CIFAR_FS_TEST = [2, 5, 8, 21, 34, 42, 46, 58, 60, 62, 69, 70, 77, 83, 84, 86, 94, 95, 98, 99]
# fmt: on


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """An empty data folder, which is also the default one: no test sees the user's."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("MNEMO_DATA_DIR", str(folder))
    return folder


def write_arrays(folder, train, test, shape, names):
    """A folder of arrays with these labels; every pixel of an image is its label, modulo 256."""
    folder.mkdir()
    for split, labels in (("train", train), ("test", test)):
        labels = np.array(labels)
        np.save(folder / f"{split}_labels.npy", labels)
        pixels = np.broadcast_to(labels.reshape(-1, *(1 for _ in shape)), (len(labels), *shape)).astype(np.uint8)
        np.save(folder / f"{split}_images.npy", pixels)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def refused(name, folder, *parts):
    """Loading is refused with one line that holds all of ``parts``."""
    with pytest.raises(InputError) as caught:
        load(name, folder)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


def splits(loaded):
    return loaded.train, loaded.validation, loaded.test


def is_sound(loaded):
    """Labels without gaps, class names that differ, and classes that are in one split only."""
    for split in splits(loaded):
        assert torch.equal(split.images.labels.unique(), torch.arange(len(split.class_names)))
    names = [name for split in splits(loaded) for name in split.class_names]
    assert len({*names}) == len(names)
    return [len(split.class_names) for split in splits(loaded)]


# Names


def test_unknown_and_missing(data_dir):
    refused("glifs", data_dir, "unknown few-shot data set", "did you mean glyphs?")
    refused("fc100", data_dir, "mnemo data fetch cifar100")
    refused("cifar-fs", data_dir, "mnemo data fetch cifar100")
    refused("omniglot", data_dir, str(data_dir / "omniglot28"), "github.com/brendenlake/omniglot", "train_images.npy")
    refused("mini-imagenet", data_dir, str(data_dir / "mini-imagenet"), "train/CLASS/", "train.csv")
    refused("tiered-imagenet", data_dir, str(data_dir / "tiered-imagenet"), "val/CLASS/")


def test_every_data_set_is_described():
    assert next(iter(DATA)) == "glyphs"
    assert all(len(line) < 100 and "classes" in line for line in DATA.values())


# Glyphs


@pytest.fixture(scope="module")
def drawn():
    return load("glyphs")


def test_glyphs(drawn):
    assert is_sound(drawn) == [141, 47, 50]
    for split in splits(drawn):
        assert split.images.shape == (1, 28, 28)
        assert split.images.labels.bincount().tolist() == [30] * len(split.class_names)
    assert drawn.augmentation == CropAndFlip(2, mirrors=False)


def test_glyphs_depend_on_nothing_but_the_character():
    torch.manual_seed(1)
    first = glyphs.draw("Ж", 6)
    torch.manual_seed(2)
    glyphs.draw("ж", 1)
    assert torch.equal(first, glyphs.draw("Ж", 6))
    assert len(first.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("face", ["DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Oblique"])
def test_no_two_glyphs_are_alike(face):
    """In one typeface and as large as each other, any two differ, within a split and across splits."""
    plain = glyphs.Distortion(22, 0, 0, 0, 0, 0, 0, 255, 0)
    characters = glyph_classes.TRAIN + glyph_classes.VALIDATION + glyph_classes.TEST
    assert len({*characters}) == len(characters)
    drawings = np.stack([glyphs._drawing(character, face, plain).ravel() for character in characters])
    assert drawings.max(1).min() > 200
    likeness = np.corrcoef(drawings.astype(float))
    np.fill_diagonal(likeness, 0)
    assert likeness.max() < 0.93


def test_glyphs_are_whole(drawn):
    """Nothing is cut off, and no drawing is empty."""
    for split in splits(drawn):
        pixels = split.images.pixels.double()
        assert (pixels > 100).flatten(1).sum(1).min() >= 15
    edges = torch.ones(28, 28, dtype=torch.bool)
    edges[1:-1, 1:-1] = False
    assert (drawn.train.images.pixels[:, 0, edges] > 100).double().mean() < 0.01


def test_scripts_are_in_one_split_each():
    scripts = [
        {unicodedata.name(c).split()[0] for c in characters if c.isalpha()}
        for characters in (glyph_classes.TRAIN, glyph_classes.VALIDATION, glyph_classes.TEST)
    ]
    assert scripts == [{"LATIN", "GREEK", "CYRILLIC"}, {"ARMENIAN"}, {"GEORGIAN"}]


def test_a_character_without_a_typeface_is_refused():
    with pytest.raises(InputError, match="no typeface"):
        glyphs.draw("㌍", 1)


def test_raw_pixels_do_not_solve_glyphs(drawn):
    """The nearest of five single examples is the right one more often than by chance, but far from always."""
    draw = torch.Generator().manual_seed(0)
    pixels = drawn.test.images.pixels.view(-1, 30, 784).float()
    right = []
    for _ in range(100):
        classes = torch.randperm(len(pixels), generator=draw)[:5]
        order = torch.randperm(30, generator=draw)
        support, query = pixels[classes, order[0]], pixels[classes][:, order[1:16]].flatten(0, 1)
        right.append(torch.cdist(query, support).argmin(1) == torch.arange(5).repeat_interleave(15))
    assert 0.4 < torch.cat(right).double().mean() < 0.75


# CIFAR-100


@pytest.fixture
def cifar100(data_dir):
    names = sorted(name for names in cifar_splits.SUPERCLASSES.values() for name in names)
    assert len({*names}) == 100
    write_arrays(data_dir / "cifar100", [*range(100), 0], [*range(100)], (32, 32, 3), names)
    return names


@pytest.mark.parametrize(
    ("name", "validation", "test"),
    [("fc100", FC100_VALIDATION, FC100_TEST), ("cifar-fs", CIFAR_FS_VALIDATION, CIFAR_FS_TEST)],
)
def test_cifar_splits(name, validation, test, cifar100):
    loaded = load(name)
    train = sorted({*range(100)} - {*validation} - {*test})
    assert is_sound(loaded) == [len(train), len(validation), len(test)]
    for split, fine in zip(splits(loaded), (train, validation, test), strict=True):
        assert split.class_names == tuple(cifar100[label] for label in fine)
        assert split.images.pixels[:, 0, 0, 0].tolist() == [fine[label] for label in split.images.labels]
        assert split.images.shape == (3, 32, 32)
    counts = loaded.train.images.labels.bincount()
    assert counts.tolist() == [3] + [2] * (len(train) - 1)  # training and test images; a third one of class 0
    assert loaded.augmentation == CropAndFlip(4, mirrors=True)


def test_fc100_keeps_superclasses_together():
    names = sorted(cifar_splits.SUPERCLASSES)
    for split, coarse in FC100_COARSE.items():
        classes = [name for label in coarse for name in cifar_splits.SUPERCLASSES[names[label]]]
        assert cifar_splits.FC100[split] == tuple(sorted(classes))


def test_other_classes_than_cifars_are_refused(data_dir):
    write_arrays(data_dir / "cifar100", [0, 1], [0, 1], (32, 32, 3), ["apple", "pear"])
    refused("fc100", data_dir, "no class 'aquarium_fish'", "not the published data")


# Omniglot

LETTERS = ["Greek/character01", "Greek/character02", "Tagalog/character01", "Tifinagh/character01", "Ge_ez/character01"]


@pytest.mark.parametrize("folder", omniglot.FOLDERS)
def test_omniglot(folder, data_dir):
    write_arrays(data_dir / folder, [0, 1, 2, 3, 1, 2], [4, 4], (28, 28), LETTERS)
    loaded = load("omniglot")
    assert [split.class_names for split in splits(loaded)] == [(*LETTERS[:2],), (*LETTERS[2:4],), (LETTERS[4],)]
    assert [split.images.labels.tolist() for split in splits(loaded)] == [[0, 1, 1], [0, 1, 0], [0, 0]]
    assert [split.images.pixels[:, 0, 3, 3].tolist() for split in splits(loaded)] == [[0, 1, 1], [2, 3, 2], [4, 4]]
    assert loaded.augmentation == CropAndFlip(2, mirrors=False)


def test_ink_becomes_white(data_dir):
    write_arrays(data_dir / "omniglot", [0, 1, 2, 3], [4], (28, 28), LETTERS)
    path = data_dir / "omniglot" / "test_images.npy"
    drawing = np.full((1, 28, 28), 255, dtype=np.uint8)
    drawing[0, 3:9, 5] = 0
    np.save(path, drawing)
    pixels = load("omniglot").test.images.pixels
    assert pixels.sum() == 6 * 255
    assert pixels[0, 0, 3:9, 5].tolist() == [255] * 6
    assert np.array_equal(np.load(path), drawing)


def test_quarter_turns_are_classes(data_dir):
    write_arrays(data_dir / "omniglot", [0, 1, 2, 3], [4], (28, 28), LETTERS)
    corner = np.zeros((1, 28, 28), dtype=np.uint8)
    corner[0, 0, 0] = 255
    np.save(data_dir / "omniglot" / "test_images.npy", corner)
    loaded = load("omniglot-rotated")
    assert is_sound(loaded) == [8, 8, 4]
    pixels = loaded.test.images.pixels[:, 0]
    assert [int(pixels[turn, row, column]) for turn, (row, column) in enumerate([(0, 0), (27, 0), (27, 27), (0, 27)])]
    assert loaded.test.class_names[3] == "Ge_ez/character01, turned by 270"


@pytest.mark.parametrize(
    ("train", "test", "names", "parts"),
    [
        ([0, 1, 2, 3], [3], LETTERS[:4], ["test labels must go on"]),
        ([0, 1, 2, 3], [5], [*LETTERS, "Oriya/1"], ["test labels 5 to 5"]),
        ([0, 1, 2], [3], ["a", "b", "c", "d"], ["ALPHABET/CHARACTER"]),
        ([0, 1, 2, 3, 4], [], LETTERS, ["test_labels.npy", "labels must be integers"]),
    ],
)
def test_unsound_omniglot_is_refused(train, test, names, parts, data_dir):
    write_arrays(data_dir / "omniglot", train, test, (28, 28), names)
    refused("omniglot", data_dir, str(data_dir / "omniglot"), *parts)


# mini-ImageNet and tiered-ImageNet

MINI = {
    "train": mini_imagenet_classes.TRAIN,
    "val": mini_imagenet_classes.VALIDATION,
    "test": mini_imagenet_classes.TEST,
}
SMALL = {"train": ["n3", "n1"], "val": ["n2"], "test": ["n4"]}


def picture(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8), (level, 0, 255 - level)).save(path)


def write_folders(root, classes, each=1):
    for split, names in classes.items():
        for name in names:
            for number in range(each):
                picture(root / split / name / f"{number}.png", level=sum(map(ord, name)) % 256)


def write_tables(root, classes):
    for split, names in classes.items():
        rows = ["filename,label"]
        for name in names:
            picture(root / "images" / f"{name}00.png", level=sum(map(ord, name)) % 256)
            rows.append(f"{name}00.png,{name}")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.mark.parametrize("write", [write_folders, write_tables])
def test_mini_imagenet(write, data_dir):
    write(data_dir / "mini-imagenet", MINI)
    loaded = load("mini-imagenet")
    assert is_sound(loaded) == [64, 16, 20]
    for split, names in zip(splits(loaded), MINI.values(), strict=True):
        assert split.class_names == names
        assert split.images.shape == (3, 84, 84)
        levels = [sum(map(ord, name)) % 256 for name in names]
        assert split.images.pixels[:, 0, 40, 40].tolist() == levels
    assert loaded.augmentation == CropAndFlip(8, mirrors=True)


def test_pictures_are_decoded_once(data_dir):
    write_folders(data_dir / "tiered-imagenet", SMALL, each=3)
    calls = []
    load("tiered-imagenet", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (12, 12)
    loaded = load("tiered-imagenet", progress=lambda done, total: pytest.fail("decoded again"))
    assert loaded.train.class_names == ("n1", "n3")
    assert loaded.test.images.labels.tolist() == [0, 0, 0]
    pixels = loaded.validation.images.pixels
    assert pixels.untyped_storage().nbytes() == 6 * 84 * 84 * 3  # a view of what lies on disk
    os.utime(data_dir / "tiered-imagenet" / "val" / "n2" / "0.png", ns=(1, 1))
    load("tiered-imagenet", progress=lambda done, total: calls.append("again"))
    assert calls[-1] == "again"


def test_a_folder_that_cannot_be_written_is_packed_elsewhere(data_dir, monkeypatch):
    write_folders(data_dir / "tiered-imagenet", SMALL)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    load("tiered-imagenet")
    assert not [*(data_dir / "tiered-imagenet").glob(".*")]
    load("tiered-imagenet", progress=lambda done, total: pytest.fail("decoded again"))


def test_other_classes_than_the_published_are_refused(data_dir):
    write_folders(data_dir / "mini-imagenet", {**MINI, "val": [*MINI["val"][1:], "n00000001"]})
    refused("mini-imagenet", data_dir, "val class n00000001 is not among the published 16")
    write_folders(data_dir / "less" / "mini-imagenet", {**MINI, "test": MINI["test"][1:]})
    refused("mini-imagenet", data_dir / "less", f"test class {MINI['test'][0]} is missing", "published 20")


def test_a_class_in_two_splits_is_refused(data_dir):
    write_folders(data_dir / "tiered-imagenet", {**SMALL, "test": ["n3"]})
    refused("tiered-imagenet", data_dir, "class n3 is in two splits")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("name,label\nn200.png,n2\n", "columns must be filename and label"),
        ("filename,label\n", "no rows"),
        ("filename,label\n../n200.png,n2\n", "no plain name"),
        ("filename,label\nn200.png\n", "without a label"),
        ("filename,label\nnone.png,n2\n", "none.png"),
    ],
)
def test_unsound_tables_are_refused(content, part, data_dir):
    write_tables(data_dir / "tiered-imagenet", SMALL)
    (data_dir / "tiered-imagenet" / "val.csv").write_text(content, encoding="utf-8")
    refused("tiered-imagenet", data_dir, str(data_dir / "tiered-imagenet"), part)


def test_the_published_lists():
    assert [len(names) for names in MINI.values()] == [64, 16, 20]
    assert all(names == tuple(sorted(names)) for names in MINI.values())
    assert not any({*first} & {*second} for first, second in combinations(MINI.values(), 2))
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for names in MINI.values() for name in names)
    assert data.DATA is DATA
