"""Two processes never hold one lock, and none is left behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mnemo.disk import lock
from mnemo.disk.files import InputError

HOLD = """
import sys, time
from pathlib import Path
from mnemo.disk import lock
with lock.folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_that_another_process_holds_is_refused_and_its_death_lets_it_go(holder, tmp_path):
    words = (
        rf"run: another run is under way there \(process {holder.pid} on .+ since \d{{4}}-\d\d-\d\d .+\); wait for it"
    )
    with pytest.raises(InputError, match=words), lock.folder(tmp_path / "run"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists(), "nobody had the time to take it away"
    with lock.folder(tmp_path / "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / ".lock").read_text()
    assert list((tmp_path / "run").iterdir()) == []


def test_one_process_does_not_hold_a_folder_twice_either(tmp_path):
    with lock.folder(tmp_path), pytest.raises(InputError, match="another run is under way"), lock.folder(tmp_path):
        pass
    with lock.folder(tmp_path):
        pass


def test_a_lock_that_is_taken_away_while_one_waits_to_open_it_is_made_anew(tmp_path, monkeypatch):
    """Between opening the file and locking it, its holder ends: who locks the old file would hold nothing."""
    first = lock.folder(tmp_path)
    first.__enter__()

    def locked(handle, path, original=lock._locked):
        monkeypatch.setattr(lock, "_locked", original)
        first.__exit__(None, None, None)
        return original(handle, path)

    monkeypatch.setattr(lock, "_locked", locked)
    with lock.folder(tmp_path), pytest.raises(InputError, match="another run"), lock.folder(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_of_and_no_obstacle(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(RuntimeWarning, match="Function not implemented"), lock.folder(tmp_path):
        pass


def test_a_shared_file_is_waited_for_and_its_holder_named(tmp_path, caplog):
    """flock keeps two handles of one process apart too, so a thread stands for the other process."""
    order, held = [], threading.Event()

    def hold():
        with lock.file(tmp_path / "new" / "a"):
            held.set()
            while not caplog.messages:
                time.sleep(0.01)
            order.append("first")

    with ThreadPoolExecutor() as pool:
        first = pool.submit(hold)
        assert held.wait(10)
        with lock.file(tmp_path / "new" / "b"):
            assert not caplog.messages, "a file has a lock of its own"
        with lock.file(tmp_path / "new" / "a"):
            order.append("second")
        first.result()
    assert order == ["first", "second"]
    assert re.search(rf"a: another run is making it \(process {os.getpid()} .+\); waiting for it", caplog.text)
    assert list((tmp_path / "new").iterdir()) == []
