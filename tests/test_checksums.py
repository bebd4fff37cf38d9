"""A changed file is refused by its name, and a kill between a file and its checksum makes none of a sound one."""

import numpy as np
import pytest
import torch

from mnemo import datasets
from mnemo.datasets.folders import Dataset, building, load_arrays, write_arrays
from mnemo.disk import checksums, files
from mnemo.disk.files import InputError
from mnemo.images import Images


@pytest.fixture
def path(tmp_path):
    checksums.begin(tmp_path)
    checksums.write_text(tmp_path / "run.json", "one\n")
    return tmp_path / "run.json"


def test_what_was_written_is_read(path):
    assert checksums.read_text(path) == "one\n"
    checksums.write_text(path, "two\n")
    checksums.begin(path.parent)
    assert checksums.read_text(path) == "two\n"


def test_every_bit_and_every_length(path):
    content = path.read_bytes()
    changed = [bytearray(content) for _ in range(8 * len(content))]
    for bit, each in enumerate(changed):
        each[bit // 8] ^= 1 << bit % 8
    for each in [*changed, *(content[:length] for length in range(len(content))), content + b"\n"]:
        path.write_bytes(each)
        with pytest.raises(InputError, match=r"run\.json: damaged, its checksum"):
            checksums.read_text(path)


@pytest.mark.parametrize("dies_in", ["checksums.json", "run.json"])
def test_a_kill_between_the_two_writes(dies_in, path, monkeypatch):
    def write_text(place, text, original=files.write_text):
        if place.name == dies_in:
            raise KeyboardInterrupt
        original(place, text)

    for _ in range(2):  # the second time three contents have been there
        monkeypatch.setattr(files, "write_text", write_text)
        with pytest.raises(KeyboardInterrupt):
            checksums.write_text(path, "two\n")
        assert checksums.read_text(path) == "one\n"
    monkeypatch.undo()
    checksums.write_text(path, "three\n")
    assert checksums.read_text(path) == "three\n"


def test_a_folder_without_checksums_gets_none(tmp_path):
    checksums.write_text(tmp_path / "run.json", "one")
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]
    (tmp_path / "run.json").write_text("other")
    assert checksums.read_text(tmp_path / "run.json") == "other"


@pytest.mark.parametrize("text", ["", "[1]", '{"run.json": 3}', "{"])
def test_damaged_checksums_are_named(text, path):
    (path.parent / "checksums.json").write_text(text)
    with pytest.raises(InputError, match=r"checksums\.json: damaged; remove it"):
        checksums.read_text(path)


def test_a_folder_of_arrays_that_mnemo_made(tmp_path, monkeypatch):
    images = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
    with building(tmp_path / "blobs") as part:
        write_arrays(part, Dataset(images, images, ("a", "b")))
    assert len(load_arrays(tmp_path / "blobs").train) == 4
    pixels = np.load(tmp_path / "blobs" / "train_images.npy")
    pixels[3, 4, 4] = 1
    np.save(tmp_path / "blobs" / "train_images.npy", pixels)
    with pytest.raises(InputError, match=r"train_images\.npy: damaged"):
        load_arrays(tmp_path / "blobs")
    monkeypatch.setattr(datasets.folders, "READ_AT_ONCE", 10)
    assert len(load_arrays(tmp_path / "blobs").train) == 4
    with pytest.raises(InputError, match=r"train_images\.npy: damaged"):
        datasets.check("blobs", tmp_path)
