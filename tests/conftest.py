"""What several test files share: a tiny data set with its protocol, and the command in this process or its own."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from typer.testing import CliRunner

from mnemo.cli import app

hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    max_examples=10,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "thorough", hypothesis.settings.get_profile("suite"), derandomize=False, max_examples=1000, print_blob=True
)
hypothesis.settings.load_profile("suite")  # pytest's option --hypothesis-profile comes later, and overrides it

PROTOCOL = """
description = "six classes of blobs in three phases"
dataset = "blobs"
base_classes = 2
increment = 2
padding = 1
mirrors = false

[strategy]
backbone = "small"
epochs = 2
batch_size = 16
lr = 0.05
per_class = 3
exemplar_epochs = 2
adjust_epochs = 2
inner_steps = 1
inner_lr = 0.1
fine_tune_epochs = 2
"""


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """A folder with the data set ``blobs``, 6 x (12 + 6) images of 8 x 8, and the protocol ``blobs.toml``."""
    root = tmp_path_factory.mktemp("data")
    (root / "blobs").mkdir()
    draw = np.random.default_rng(0)
    shapes = draw.integers(0, 256, (6, 8, 8))
    for name, count in (("train", 12), ("test", 6)):
        labels = np.repeat(np.arange(6), count)
        pixels = (shapes[labels] * 0.6 + draw.integers(0, 100, (len(labels), 8, 8))).astype(np.uint8)
        np.save(root / "blobs" / f"{name}_images.npy", pixels)
        np.save(root / "blobs" / f"{name}_labels.npy", labels)
    (root / "blobs" / "classes.txt").write_text("".join(f"blob {letter}\n" for letter in "abcdef"))
    (root / "blobs.toml").write_text(PROTOCOL)
    return root


@pytest.fixture
def orderly(blobs, tmp_path, monkeypatch):
    """``mnemo`` in this process, in an empty folder, of which this asks what is asked of it whatever it is given.

    It ends with 0, or with 2 and one line of text, without control characters, in which ``names`` stands. What there is
    on standard output is text that may be written.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNEMO_DATA_DIR", str(blobs))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    runner = CliRunner()

    def call(*arguments, names=""):
        result = runner.invoke(app, [str(argument) for argument in arguments], prog_name="mnemo")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code in (0, 2)
        shown = re.sub("[\t\n]", "", result.stdout)
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown + result.stderr[:-1])
        if result.exit_code == 2:
            assert result.stderr.startswith("mnemo: ")
            assert result.stderr.count("\n") == 1
            assert names in result.stderr
        else:
            assert result.stderr == ""
        return result

    return call


class Command:
    """``mnemo`` in a process of its own, its output in files."""

    def __init__(self, server, pid, out, err):
        self._server, self.pid, self._out, self._err = server, pid, out, err

    def wait(self):
        """The exit code; negative: the signal that ended it."""
        return self._server.ask({"wait": self.pid})

    @property
    def out(self):
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self):
        return self._err.read_text(encoding="utf-8")


class ForkServer:
    """See ``fork_server.py``."""

    def __init__(self, scratch):
        self._scratch, self._started = scratch, 0
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "CUDA_VISIBLE_DEVICES": ""},
        )

    def ask(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *arguments, cwd, before="", out=None):
        """Start ``mnemo`` with ``arguments`` in ``cwd``, after the Python code ``before``.

        Output goes to files unless ``out`` is a terminal's path.
        """
        self._started += 1
        outputs = [Path(out or self._scratch / f"{self._started}.{name}") for name in ("out", "err")]
        argv = ["mnemo", *map(str, arguments)]
        request = {"argv": argv, "cwd": str(cwd), "before": before, "outputs": [str(path) for path in outputs]}
        return Command(self, self.ask(request), *outputs)

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    server = ForkServer(tmp_path_factory.mktemp("outputs"))
    yield server
    server.close()


@pytest.fixture
def until():
    """Wait until a condition holds."""

    def wait(condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.005)

    return wait
