"""What mnemo reads is data and stays data: nothing of it is run, obeyed or written elsewhere, and no host is asked.

docs/security.md says what is trusted and what is not.
"""

import ast
import html
import io
import json
import re
import shutil
import socket
import subprocess
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from mnemo import datasets, report, visible
from mnemo.disk.files import InputError
from mnemo.fewshot.record import FewShotRun, Picture, ShownTask
from mnemo.images import png_base64
from mnemo.record import ExemplarSample, Run

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("mnemo", "strategies", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
HOSTILE = [
    "<script>document.title='owned'</script>",
    "</title><script>document.title='owned'</script>",
    "</style></svg><img src=x onerror=\"document.title='owned'\">",
    "' onmouseover='document.title=1' \" autofocus onfocus=\"document.title='owned'\"",
    "javascript:document.title='owned'",
    "<!--]]>{{7*191}}{% raw %}&lt;b&gt;",
    "\x1b[31m\x1b]0;owned\x07",
    "\u202egnp.exe\u2066",
    "[/][link=https://example.org]x",
    "\ud800",
]


# Code


ELSEWHERE = {"unpack_archive", "load_url", "load_state_dict_from_url", "urlretrieve"}


def unsafe(tree):
    """Calls by which data could come to be run, and imports of what makes them possible."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if name.split(".")[0] in {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}:
                    yield node.lineno, f"import {name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        name = called.rpartition(".")[2]
        if called in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"} or name in ELSEWHERE:
            yield node.lineno, called
        elif called == "torch.load" and options.get("weights_only") != "True":
            yield node.lineno, f"{called} without weights_only=True"
        elif called in {"np.load", "numpy.load"} and options.get("allow_pickle") != "False":
            yield node.lineno, f"{called} without allow_pickle=False"
        elif name in {"extractall", "extract"} and options.get("filter") != "'data'":
            yield node.lineno, f"{called} without filter='data'"
        elif "True" in (options.get("shell"), options.get("allow_pickle")):
            yield node.lineno, f"{called} with a shell, or pickles"
        elif name == "urlopen" and "timeout" not in options:
            yield node.lineno, f"{called} without timeout"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "tar.extractall(folder)",
        "zip.extract(name, folder)",
        "subprocess.run(line, shell=True)",
        "urllib.request.urlopen(url)",
    ],
)
def test_the_search_finds_unsafe_calls(code):
    assert list(unsafe(ast.parse(code)))


def test_no_code_unpickles_evaluates_or_extracts_what_it_is_given():
    assert len(SOURCES) > 100
    found = [(path.name, *each) for path in SOURCES for each in unsafe(ast.parse(path.read_text(encoding="utf-8")))]
    assert found == []


def test_one_module_alone_knows_the_network():
    words = re.compile(
        r"^\s*(?:import|from) (urllib\.request|http|socket|requests|ftplib|webbrowser|ssl)\b", re.MULTILINE
    )
    of_users = [path for path in SOURCES if "benchmarks" not in path.relative_to(ROOT).parts]
    known = [path.name for path in of_users if words.search(path.read_text(encoding="utf-8"))]
    assert known == ["cifar.py"]


# The network


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt fails; gives the list of attempts."""
    attempts = []

    def refuse(*arguments, **_):
        attempts.append(arguments)
        raise OSError("no network here")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return attempts


def test_a_run_and_its_report_ask_no_host(no_network, orderly, blobs, tmp_path):
    settings = ["--set", "epochs=1", "--set", "fine_tune_epochs=0"]
    assert orderly("run", blobs / "blobs.toml", "--out", "run", *settings).exit_code == 0
    assert orderly("report", "run", "--out", "report").exit_code == 0
    orderly("data", "check", "cifar100")
    orderly("data", "list")
    orderly("list")
    assert no_network == []


def test_fetching_alone_asks(no_network, orderly, tmp_path):
    assert orderly("data", "fetch", "cifar100", "--data-dir", tmp_path, names="cannot be downloaded").exit_code == 2
    assert no_network


# Archives


def member(name, content=b"x", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("/tmp/mnemo-evil")],
        [member("cifar-100-python/../../evil")],
        [member("cifar-100-python/train", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        [member("cifar-100-python/train", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        [member("cifar-100-python", b"", type=tarfile.SYMTYPE, linkname="/"), member("cifar-100-python/train")],
        [member("cifar-100-python/train", b"", type=tarfile.FIFOTYPE)],
        [member("cifar-100-python/train", b"", type=tarfile.DIRTYPE)],
        [member(f"cifar-100-python/{name}", b"cos\nsystem\n(S'touch evil'\ntR.") for name in ("train", "test", "meta")],
    ],
)
def test_an_archive_writes_nowhere_else_and_is_not_unpickled(members, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(InputError, match=r"cifar-100-python\.tar\.gz: damaged, or not"):
        datasets.import_(archive, data_dir=tmp_path / "data")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [archive.name, "data"]
    assert not Path("/tmp/mnemo-evil").exists()


# Terminals


def test_names_reach_a_terminal_as_what_they_are(orderly, blobs, tmp_path, monkeypatch):
    from mnemo.console import console

    monkeypatch.setattr(console, "width", 500)  # COLUMNS is looked at once, when it is made
    for index, name in enumerate(HOSTILE[:-1]):
        folder = tmp_path / "data" / name.replace("/", "_")
        shutil.copytree(blobs / "blobs", folder)
        (folder / "classes.txt").write_text("".join(f"{letter}{name}\n" for letter in "abcdef"), encoding="utf-8")
        assert orderly("data", "check", folder.name, "--data-dir", tmp_path / "data").exit_code == 0, index
    listed = orderly("data", "list", "--data-dir", tmp_path / "data").stdout
    assert r"\x1b[31m\x1b]0;owned\x07" in listed
    assert r"\u202egnp.exe\u2066" in listed
    text = (
        (blobs / "blobs.toml")
        .read_text()
        .replace('"blobs"', json.dumps(str(tmp_path / "data" / "[_][link=https:__example.org]x")))
    )
    (tmp_path / "[/bold][red]\u202e.toml".replace("/", "")).write_text(text)
    monkeypatch.setattr("mnemo.report.write", lambda runs, out: out / "[/]" / "report.html")
    done = orderly("run", "[bold][red]\u202e.toml", "--out", "[red]", "-s", "finetune", "--set", "epochs=1")
    assert done.exit_code == 2  # the protocol's name is a folder's
    (tmp_path / "[red].toml").write_text(text)
    done = orderly("run", "[red].toml", "--out", "[red]", "-s", "finetune", "--set", "epochs=1")
    assert done.exit_code == 0
    assert "finetune on [red], seed" in done.stdout
    assert "report: [red]/[/]/report.html" in done.stdout


@pytest.mark.parametrize("text", HOSTILE)
def test_text_in_a_line(text):
    shown = visible.in_a_line(f"{text}\n\u2028")
    assert not CONTROL.search(shown)
    assert len(shown.splitlines()) == 1
    assert visible.in_a_line("čé 漢字 👩‍👩‍👧 \N{NO-BREAK SPACE}") == "čé 漢字 👩‍👩‍👧 \N{NO-BREAK SPACE}"


# Pages


class Elements(HTMLParser):
    """The elements of a page, and its words."""

    def __init__(self, text):
        super().__init__()
        self.found, self.words = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def pages(folder):
    """A page of either kind in which every string is hostile."""
    dot = png_base64(torch.full((1, 8, 8), 9, dtype=torch.uint8))
    runs, tasks = [], []
    for seed, text in enumerate(HOSTILE):
        writable = text.encode(errors="replace").decode()
        common = {"command": text, "hardware": text, "versions": {text: text}, "seconds": {writable: 1.0}, "seed": seed}
        run = Run(
            strategy=writable,
            protocol=text,
            config={text: {text: text}},
            class_order=[0, 1],
            class_names=[text, text],
            phase_classes=[[0], [1]],
            accuracy=[[90.0, None], [80.0, 90.0]],
            phase_accuracy=[90.0, 85.0],
            exemplar_samples=[ExemplarSample(class_name=text, phase=0, before=dot, after=dot)],
            device=text,
            **common,
        )
        runs.append(run)
        shown = ShownTask(
            class_names=[text, text],
            accuracy=50.0,
            support=[Picture(png=dot, label=0, point=(0.1, 0.1))],
            query=[Picture(png=dot, label=1, guess=0, right=False, point=(0.2, 0.2))],
        )
        few = FewShotRun(
            method=writable, data=text, way=2, shot=1, queries=1, episodes=2, accuracy=50.0, interval=1.0,
            batch_norm=text, transductive=False, config={text: text}, curves={text: [0.1]}, shown=[shown],
            device=text, pretrained=text,
            episodes_digest=text, **common,
        )  # fmt: skip
        tasks.append(few)
    return [report.write(runs, folder / "runs"), report.write(tasks, folder / "tasks")]


@pytest.fixture(scope="module")
def hostile_pages(tmp_path_factory):
    return pages(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("kind", [0, 1])
def test_a_page_shows_every_string_and_obeys_none(kind, hostile_pages):
    text = hostile_pages[kind].read_text(encoding="utf-8")
    assert not CONTROL.search(text)
    page = Elements(text)
    tags = {tag for tag, _ in page.found}
    assert not {"script", "iframe", "object", "embed", "base", "form", "input", "link", "a"} & tags
    for tag, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on") or name in {"href", "xlink:href", "srcdoc"}], (
            tag
        )
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    policies = [each["content"] for tag, each in page.found if each.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    for string in HOSTILE:
        assert visible.on_a_page(string) in page.words


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("kind", [0, 1])
def test_a_browser_obeys_none_either(kind, hostile_pages, tmp_path):
    """The policy is taken out, so that nothing but escaping stands between the strings and the browser."""
    text = hostile_pages[kind].read_text(encoding="utf-8")
    canary = "<script>document.documentElement.dataset.scripts = 'run'</script></body>"
    page = tmp_path / "page.html"
    page.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", canary), encoding="utf-8")
    shown = dump(page, tmp_path / "profile")
    assert 'data-scripts="run"' in shown, "scripts do not run here at all"
    ours, theirs = (html.unescape(re.search("<title>(.*)</title>", page)[1]) for page in (text, shown))
    assert ours == theirs  # a browser writes quotes as they are
    page.write_text(text.replace("</body>", canary), encoding="utf-8")
    assert 'data-scripts="run"' not in dump(page, tmp_path / "profile"), "the policy forbids scripts"


def dump(page, profile):
    """A page's document after its scripts have run."""
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += f" --disable-component-update --disable-sync --virtual-time-budget=3000 --user-data-dir={profile}"
    done = subprocess.run(
        [CHROMIUM, *options.split(), "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout
