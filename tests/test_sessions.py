"""Published lists of images: read, compared with the data set, and made into a stream."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mnemo import datasets, experiment, protocols, sessions
from mnemo.disk.files import InputError
from mnemo.images import Images
from mnemo.phases import listed_shots, split_by_class, withhold_labels

CLASSES = [f"n0000000{c}" for c in range(6)]
GROUPS = [(0, 1), (2, 3), (4, 5)]
LABELS = torch.arange(6).repeat_interleave(5)
PROTOCOL = """
dataset = "pictures"
order = "natural"
base_classes = 2
increment = 2
increment_images = 2
padding = 1

[strategy]
backbone = "small"
base_epochs = 1
batch_size = 8
"""


def files():
    """Five pictures of each of six classes; the first of each has a name that others have too."""
    names = [["same.png", *(f"{c}{i:04}.png" for i in range(1, 5))] for c in CLASSES]
    return [Path("train") / c / name for c, of in zip(CLASSES, names, strict=True) for name in of]


def published(row):
    return f"MINI-ImageNet/{files()[row].as_posix()}"


def write(folder, *lists):
    folder.mkdir(exist_ok=True)
    for number, lines in enumerate(lists, start=1):
        (folder / f"session_{number}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def rows():
    return [[*range(10)], [14, 10, 19, 16], [20, 23, 28, 25]]


def shots(folder, count=2):
    return sessions.shots(sessions.read(folder, 3), LABELS, GROUPS, count, files)


@pytest.mark.parametrize("line", [published, str, lambda row: files()[row].as_posix().replace("/", "\\")])
def test_lists_of_paths_and_of_places(line, tmp_path):
    folder = write(tmp_path, *([line(row) for row in of] for of in rows()))
    assert shots(folder) == {2: [14, 10], 3: [19, 16], 4: [20, 23], 5: [28, 25]}
    assert shots(folder, None) == shots(folder)


def test_a_names_folder_need_not_be_its_class(tmp_path):
    lists = [[f"miniimagenet/images/{files()[row].name}" for row in of if row % 5] for of in rows()]
    lists[0] += [published(0), published(5)]
    lists[1] += [published(10)]
    lists[2] += [published(20), published(25)]
    assert shots(write(tmp_path, *lists)) == {2: [14, 10], 3: [19, 16], 4: [23, 20], 5: [28, 25]}


def changed(index, replace, by):
    lists = rows()
    lists[index] = [by if row == replace else row for row in lists[index] if (row, by) != (replace, None)]
    return lists


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (changed(1, 14, 30), "session_2.txt: 30 is no training image"),
        (changed(1, 14, "train/n1/x.png"), "session_2.txt: train/n1/x.png is no training image"),
        (changed(1, 14, 10), "session_2.txt: 10 is listed twice"),
        (changed(1, 14, 18), "session_2.txt: 1 images of class 2; there must be 2 of each class"),
        (changed(1, 14, None), "session_2.txt: 1 images of class 2; there must be 2 of each class"),
        (changed(2, 20, 11), "session_3.txt: 11 is of class 2, which phase 2 does not bring"),
        (changed(1, 14, 3), "session_2.txt: 3 is of class 0, which phase 1 does not bring"),
        (changed(0, 9, None), "session_1.txt: 4 images of base class 1, which has 5 to train on"),
        ([*rows()[:2], []], "session_3.txt: lists no images"),
        (rows()[:2], "session_3.txt: missing"),
    ],
)
def test_lists_that_do_not_fit_the_data_set(lists, words, tmp_path):
    with pytest.raises(InputError, match=words):
        shots(write(tmp_path, *lists))


def test_a_picture_that_is_missing(tmp_path):
    lists = [[published(row) for row in of] for of in rows()]
    lists[2][1] = "MINI-ImageNet/train/n00000004/n0000000499999.png"
    with pytest.raises(InputError, match=r"session_3.txt: MINI-.*99999.png is no training image of this data set"):
        shots(write(tmp_path, *lists))
    lists[2][1] = "images/same.png"
    with pytest.raises(InputError, match=r"images/same.png is no training image"):
        shots(write(tmp_path, *lists))


def stream(validation=0):
    pixels = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1)
    images = Images(pixels, LABELS)
    made = split_by_class(images, images, order=range(6), base_classes=2, increment=2, validation=validation)
    return listed_shots(made, {2: [14, 10], 3: [19, 16], 4: [20, 23], 5: [28, 25]})


def test_a_stream_of_listed_images():
    first, *later = stream()
    assert first.train.pixels.flatten().tolist() == [*range(10)]
    assert [phase.train.pixels.flatten().tolist() for phase in later] == [[10, 14, 16, 19], [20, 23, 25, 28]]
    assert [phase.train.labels.tolist() for phase in later] == [[2, 2, 3, 3], [4, 4, 5, 5]]
    assert [stream().count(index) for index in range(3)] == [10, 4, 4]


def test_listed_images_are_neither_held_out_nor_unlabelled():
    made = withhold_labels(stream(validation=2), 1)
    for phase in made[1:]:
        kinds = (phase.train.pixels, phase.test.pixels, phase.unlabelled)
        assert [len(pixels) for pixels in kinds] == [4, 4, 2]
        assert len(torch.cat(kinds).unique()) == 10
    with pytest.raises(InputError, match="validation=4: class 2 has too few images beside its shots"):
        stream(validation=4)


@pytest.fixture
def prepare(tmp_path):
    """Makes an experiment on pictures whose red value is their row, with the lists in a folder."""
    for row, path in enumerate(files()):
        for split in ("train", "test"):
            place = tmp_path / "data" / "pictures" / split / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), (row, 100, 200), np.uint8)).save(place)
    (tmp_path / "pictures.toml").write_text(PROTOCOL)
    in_order = [[published(row) for row in of] for of in rows()]

    def make(**values):
        folder = write(tmp_path / "lists", *in_order)
        protocol = protocols.load(str(tmp_path / "pictures.toml"))
        settings = {"sessions": str(folder), **values}
        return experiment.prepare(protocol, "decoupled_cosine", settings, data_dir=tmp_path / "data", device="cpu")

    return make


def test_lists_reach_a_protocol(prepare):
    prepared = prepare()
    shown = [phase.train.pixels[:, 0, 0, 0].tolist() for phase in prepared.stream]
    assert [sorted(of) for of in shown] == [sorted(of) for of in rows()]
    assert prepared.run.config["protocol"]["sessions"].endswith("lists")
    assert "sessions" not in experiment.base_identity(prepared)["protocol"]
    with pytest.raises(InputError, match="2 images of class 2; there must be 3 of each class"):
        prepare(increment_images=3)
    with pytest.raises(InputError, match=r"session_1.txt: missing"):
        prepare(sessions="nowhere")


def test_paths_need_pictures(prepare, tmp_path):
    prepare()
    datasets.import_(tmp_path / "data" / "pictures", "arrays", tmp_path / "data")
    with pytest.raises(InputError, match="have no file names"):
        prepare(dataset="arrays")
    lists = [[str(row) for row in of] for of in rows()]
    data = datasets.load("arrays", tmp_path / "data")
    places = {int(pixel): place for place, pixel in enumerate(data.train.pixels[:, 0, 0, 0])}
    write(tmp_path / "places", *([places[int(line)] for line in of] for of in lists))
    made = prepare(dataset="arrays", sessions=str(tmp_path / "places"))
    assert [sorted(phase.train.pixels[:, 0, 0, 0].tolist()) for phase in made.stream] == [sorted(r) for r in rows()]
