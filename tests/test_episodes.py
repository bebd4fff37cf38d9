import json

import pytest
import torch

from mnemo.disk.files import InputError
from mnemo.fewshot import episodes
from mnemo.fewshot.episodes import Sampler, Shape

LABELS = torch.arange(9).repeat(12)  # 9 classes, 12 images each, rows 0..107


def draw(count=20, place=("a",), **shape):
    return Sampler(LABELS, Shape(**{"ways": 3, "shots": 2, "queries": 4, **shape})).draw(count, *place)


def test_every_image_is_of_its_class_and_comes_once():
    drawn = draw(unlabelled=3, distractors=2)
    assert drawn.support.shape == (20, 6)
    assert drawn.query.shape == (20, 12)
    assert drawn.unlabelled.shape == (20, 15)
    for task in range(20):
        classes = drawn.classes[task]
        assert len(classes.unique()) == 5
        assert torch.equal(LABELS[drawn.support[task]], classes[:3].repeat_interleave(2))
        assert torch.equal(LABELS[drawn.query[task]], classes[:3].repeat_interleave(4))
        assert torch.equal(LABELS[drawn.unlabelled[task]], classes.repeat_interleave(3))
        rows = torch.cat([drawn.support[task], drawn.query[task], drawn.unlabelled[task]])
        assert len(rows.unique()) == len(rows)


def test_labels_are_places_in_the_task():
    drawn = draw(unlabelled=2, distractors=1)
    assert drawn.labels[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert drawn.answers[3].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert drawn.hidden[5].tolist() == [0, 0, 1, 1, 2, 2, -1, -1]


def test_a_place_decides_and_all_classes_come():
    assert torch.equal(draw().query, draw().query)
    assert draw().digest == draw().digest != draw(place=("b",)).digest
    assert len(draw(60).classes.unique()) == 9


def test_more_episodes_begin_with_the_same():
    assert torch.equal(draw(30).query[:20], draw(20).query)


def test_unlabelled_images_change_neither_support_nor_queries():
    plain, more = draw(), draw(unlabelled=3, distractors=4)
    assert torch.equal(plain.support, more.support)
    assert torch.equal(plain.query, more.query)
    assert plain.digest == more.digest


def test_revealed_images_join_the_support_under_their_labels():
    drawn = draw(unlabelled=3)
    revealed = drawn.revealed()
    assert revealed.shape == Shape(3, 5, 4)
    assert torch.equal(LABELS[revealed.support], revealed.classes.repeat_interleave(5, dim=1))
    assert set(revealed.support[0].tolist()) == {*drawn.support[0].tolist(), *drawn.unlabelled[0].tolist()}
    assert revealed.digest == drawn.digest
    with pytest.raises(InputError, match="distracting"):
        draw(unlabelled=3, distractors=1).revealed()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"ways": 10}, "10 classes, but there are only 9"),
        ({"ways": 8, "unlabelled": 1, "distractors": 2}, "10 classes"),
        ({"shots": 9}, "13 images of a class, but one has only 12"),
    ],
)
def test_too_few_classes_or_images(shape, message):
    with pytest.raises(InputError, match=message):
        draw(**shape)


def test_distractors_without_unlabelled_images_take_no_classes():
    assert draw(ways=9, distractors=5).classes.shape == (20, 9)


def test_hard_tasks_come_of_the_pool():
    sampler = Sampler(LABELS, Shape(3, 1, 2))
    drawn = sampler.draw_among(torch.tensor([1, 4, 6, 8]), 30, "hard")
    assert set(drawn.classes.flatten().tolist()) == {1, 4, 6, 8}
    assert torch.equal(LABELS[drawn.query], drawn.classes.repeat_interleave(2, dim=1))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "episodes.json"
    episodes.save(draw(unlabelled=2, distractors=1), path, "toys", "test")
    return path


def test_a_file_gives_back_what_was_written(file):
    there = episodes.load(file, "toys", "test", LABELS)
    here = draw(unlabelled=2, distractors=1)
    assert there.shape == here.shape
    for name in ("classes", "support", "query", "unlabelled"):
        assert torch.equal(getattr(there, name), getattr(here, name))


def test_a_file_without_unlabelled_images(tmp_path):
    episodes.save(draw(), tmp_path / "e.json", "toys", "test")
    assert episodes.load(tmp_path / "e.json", "toys", "test", LABELS).unlabelled.shape == (20, 0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", 7, "no episodes of schema 1"),
        ("data", "others", "episodes of others"),
        ("split", "train", r"toys \(train\)"),
        ("shape", {"ways": 3, "shots": 2, "queries": 4, "colour": 1}, "colour"),
        ("shape", {"ways": 3, "shots": 1, "queries": 4, "unlabelled": 2, "distractors": 1}, "support is"),
        ("support", [[0, 1]], "support is"),
        ("query", [[0, 1], [2]], "differ in length"),
        ("query", "text", "valid list"),
        ("classes", [], "no episode"),
        ("classes", [[-1, 2, 3, 4]], "greater than or equal to 0"),
    ],
)
def test_a_file_that_is_not_right(file, key, value, message):
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, key: value}))
    with pytest.raises(InputError, match=message):
        episodes.load(file, "toys", "test", LABELS)


def test_a_file_of_other_images(file):
    with pytest.raises(InputError, match="another class"):
        episodes.load(file, "toys", "test", LABELS.flip(0).roll(1))
    with pytest.raises(InputError, match="there are only 50"):
        episodes.load(file, "toys", "test", LABELS[:50])


def test_a_file_that_is_no_json_or_is_not_there(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        episodes.load(tmp_path / "x.json", "toys", "test", LABELS)
    with pytest.raises(InputError, match="no such file"):
        episodes.load(tmp_path / "y.json", "toys", "test", LABELS)
