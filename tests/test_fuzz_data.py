"""Whatever lies in a data set's folder: it is read, or refused in a line that names the file, and nothing is run."""

import io
import os
import pickle
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mnemo import datasets
from mnemo.datasets import pictures
from mnemo.disk.files import InputError

FILES = ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"]
PROTOCOL = """
dataset = "mine"
base_classes = 1
increment = 1
padding = 1

[strategy]
backbone = "small"
epochs = 1
batch_size = 4
per_class = 1
exemplar_epochs = 1
adjust_epochs = 1
inner_steps = 1
fine_tune_epochs = 1
"""


class Evil:
    """Unpickled, it would make a file."""

    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder of the data set ``mine``."""
    monkeypatch.setenv("MNEMO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "mine.toml").write_text(PROTOCOL)
    return tmp_path / "data" / "mine"


@pytest.fixture
def orderly(orderly, tmp_path, monkeypatch):
    monkeypatch.setenv("MNEMO_DATA_DIR", str(tmp_path / "data"))
    return orderly


def write_arrays(folder, classes=2, each=2, shape=(8, 8), names=None):
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        np.save(folder / f"{split}_images.npy", draw.integers(0, 256, (classes * each, *shape)).astype(np.uint8))
        np.save(folder / f"{split}_labels.npy", np.repeat(np.arange(classes), each))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names or range(classes)))


def header(text):
    """A .npy file of nothing but a header."""
    line = text.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line


def zipped():
    file = io.BytesIO()
    np.savez(file, labels=np.zeros(4, np.int64))
    return file.getvalue()


# Arrays

arrays = st.builds(
    lambda dtype, shape: np.zeros(shape, dtype),
    st.sampled_from(["u1", "i1", ">i8", "u8", "f4", "?", "c8", "U3", "S0", "V4", "M8[s]", "m8[s]", "f2", "O"]),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 8]), max_size=5),
)


@st.composite
def contents(draw):
    """What a .npy file may hold: other arrays, damaged ones, other headers, anything."""
    file = io.BytesIO()
    np.save(file, draw(arrays), allow_pickle=True)
    content = bytearray(file.getvalue())
    for _ in range(draw(st.integers(0, 3))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    shapes = st.lists(st.sampled_from([-1, 0, 4, 8, 2**40, 10**19, 2.5, True]), max_size=4).map(tuple)
    descriptions = st.sampled_from(["|u1", "<i8", "|O", "u9", [("a", "<i8")], ("<i8", (2,)), [], None, "x" * 9999])
    made = st.fixed_dictionaries(
        {"descr": descriptions, "fortran_order": st.sampled_from([False, True, 1]), "shape": shapes}
    )
    return draw(
        st.just(bytes(content)) | made.map(lambda each: header(str(each)) + bytes(256)) | st.binary(max_size=30)
    )


@given(name=st.sampled_from(FILES), content=contents())
@example(name="train_labels.npy", content=pickle.dumps(Evil()))
@example(
    name="train_labels.npy",
    content=header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + pickle.dumps(Evil()),
)
@example(name="train_labels.npy", content=zipped())
@example(name="train_labels.npy", content=header("__import__('os').mkdir('evil')"))
@example(name="test_images.npy", content=header("{"))
@example(name="test_images.npy", content=header("-" * 9000 + "1"))
@example(name="test_images.npy", content=header("[" * 300))
@example(name="test_images.npy", content=header("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 0, 0)}"))
def test_any_array(name, content, orderly, mine, tmp_path):
    write_arrays(mine)
    (mine / name).write_bytes(content)
    orderly("data", "check", "mine", names=".npy")
    assert not (tmp_path / "evil").exists()


@given(labels=st.lists(st.integers(-2, 3) | st.sampled_from([-(2**63), 2**63 - 1]), min_size=4, max_size=4))
def test_any_labels(labels, orderly, mine):
    write_arrays(mine)
    np.save(mine / "train_labels.npy", np.array(labels, dtype=np.int64))
    sound = set(labels) == {0, 1}
    assert orderly("data", "check", "mine", names="train_labels.npy").exit_code == (0 if sound else 2)


@given(content=st.text(max_size=12).map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=12))
@example(content=b"a\na\n")
@example(content=b"\x1b[31m\n<script>\n")
def test_any_class_names(content, orderly, mine):
    write_arrays(mine)
    (mine / "classes.txt").write_bytes(content)
    orderly("data", "check", "mine", names="mine")


@pytest.mark.parametrize("name", [*FILES, "classes.txt"])
def test_a_pipe_is_not_waited_for(name, orderly, mine):
    write_arrays(mine)
    (mine / name).unlink()
    os.mkfifo(mine / name)
    assert orderly("data", "check", "mine", names=name).exit_code == 2


@pytest.mark.parametrize(
    ("classes", "each", "shape"), [(1, 2, (8, 8)), (2, 1, (8, 8)), (1, 1, (1, 1)), (2, 1, (3, 20, 3))]
)
@pytest.mark.parametrize("strategy", ["mnemonics", "icarl"])
def test_few_classes_and_few_images_are_learnt(strategy, classes, each, shape, orderly, mine, monkeypatch):
    monkeypatch.setattr("mnemo.report.write", lambda runs, out: out / "report.html")
    write_arrays(mine, classes, each, shape)
    too_few = (classes, each, shape) == (1, 1, (1, 1))  # a single pixel has no variance
    assert orderly("run", "mine.toml", "--out", "run", "-s", strategy).exit_code == (2 if too_few else 0)


def test_ten_thousand_classes_are_read_in_no_time(mine):
    write_arrays(mine, 10_000, 1, (2, 2), [f"class {index}" for index in range(10_000)])
    begun = time.process_time()
    data = datasets.load("mine")
    assert len(data.class_names) == 10_000
    assert time.process_time() - begun < 2


# Pictures


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write_pictures(folder, classes=("a", "b")):
    picture = encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG")
    for split in ("train", "test"):
        for name in classes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            (folder / split / name / "0.png").write_bytes(picture)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *more, pixels=bytes(72)):
    """A grey PNG that says that it has this size."""
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + b"".join(more) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


NOISE = Image.effect_noise((8, 8), 50).convert("RGB")
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), (level, 0, 0)) for level in range(4)]}
INFLATED = zlib.compress(bytes(2**27))


@st.composite
def damaged(draw):
    form = draw(st.sampled_from(pictures.FORMATS))
    content = bytearray(encoded(NOISE, form))
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.just(len(content)) | st.integers(0, len(content)))])


@given(content=damaged())
@example(content=b"")
@example(content=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
@example(content=b"<svg xmlns='http://www.w3.org/2000/svg'/>")
@example(content=png(20_000, 20_000))
@example(content=png(9_500, 9_500))
@example(content=png(2**31 - 1, 2**31 - 1))
@example(content=png(1, 100_000, pixels=bytes(200_000)))
@example(content=png(0, 0))
@example(content=png(8, 8, chunk(b"zTXt", b"k\0\0" + INFLATED)))
@example(content=png(8, 8, chunk(b"iCCP", b"k\0\0" + INFLATED)))
def test_any_picture(content, orderly, mine):
    """Whatever its name says; pictures that would fill the memory are refused before."""
    write_pictures(mine)
    (mine / "train" / "a" / "1.jpg").write_bytes(content)
    orderly("data", "check", "mine", names="1.jpg")


@pytest.mark.parametrize(
    ("content", "pixel"),
    [
        (encoded(Image.new("L", (8, 8), 7), "PNG"), (7, 7, 7)),
        (encoded(Image.new("1", (8, 8), 1), "PNG"), (255, 255, 255)),
        (encoded(Image.new("LA", (8, 8), (7, 0)), "PNG"), (7, 7, 7)),
        (encoded(Image.new("RGBA", (8, 8), (7, 8, 9, 0)), "PNG"), (7, 8, 9)),
        (encoded(Image.new("RGB", (8, 8), (9, 0, 0)), "GIF", **FRAMES), (9, 0, 0)),
        (encoded(Image.new("RGB", (8, 8), (9, 0, 0)), "PNG", **FRAMES), (9, 0, 0)),
        (encoded(Image.new("RGB", (8, 8), (9, 0, 0)), "WEBP", lossless=True, **FRAMES), (9, 0, 0)),
    ],
)
def test_pictures_of_every_mode_and_misnamed_ones_are_read(content, pixel, tmp_path):
    """Of animations the first frame."""
    path = tmp_path / "misnamed.jpg"
    path.write_bytes(content)
    assert (pictures.decode(path, (8, 8)) == pixel).all()


@given(
    name=st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=6).filter(lambda n: n not in (".", ".."))
)
@example(name="a ")
@example(name="a\nb")
@example(name="\udcff")
@example(name="\x1b[31m\u202e")
@example(name="<b>'\"[red]")
def test_any_name_of_a_class(name, orderly, mine):
    """As it is taken so it is told, and no two become one."""
    if any("\ud800" <= letter <= "\udfff" and not "\udc80" <= letter <= "\udcff" for letter in name):
        return  # no folder has such a name
    classes = sorted({"a", name} if not name.startswith(".") else {"a"})
    folder = mine.with_name(f"mine-{abs(hash(name))}")
    write_pictures(folder, {"a", name})
    done = orderly("data", "check", folder, names=folder.name)
    if done.exit_code == 0:
        assert list(datasets.load(str(folder)).class_names) == classes


@pytest.mark.parametrize("target", ["/etc/passwd", "1.png", "nowhere.png", "/dev/zero"])
def test_links_and_other_things_among_pictures(target, orderly, mine):
    write_pictures(mine)
    (mine / "train" / "a" / "1.png").symlink_to(target)
    os.mkfifo(mine / "train" / "a" / "2.png")
    (mine / "train" / "a" / "3.png").mkdir()
    done = orderly("data", "check", "mine", names="1.png")
    assert done.exit_code == (2 if target in ("/etc/passwd", "1.png") else 0)  # the others are no files


@pytest.mark.parametrize("place", ["test", "train/c"])
def test_folders_that_are_links_out(place, orderly, mine, tmp_path):
    write_pictures(tmp_path / "elsewhere", ("a", "b"))
    write_pictures(mine, ("a", "b", "c"))
    (mine / place).rename(tmp_path / "moved")
    (mine / place).symlink_to(tmp_path / "moved")
    assert orderly("data", "check", "mine", names=place).exit_code == 2


def test_one_picture_of_one_class_is_learnt(orderly, mine, monkeypatch):
    monkeypatch.setattr("mnemo.report.write", lambda runs, out: out / "report.html")
    write_pictures(mine, ["only"])
    assert orderly("run", "mine.toml", "--out", "run").exit_code == 0


def test_an_image_folder_says_which_class_is_strange(mine):
    write_pictures(mine, ("a", "b\nc"))
    with pytest.raises(InputError, match="one line of UTF-8"):
        datasets.import_(mine, "other")
