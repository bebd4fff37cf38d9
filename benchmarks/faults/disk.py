"""Disks that refuse: full ones, files that may grow no further, and errors of every kind at any write."""

import ctypes
import errno
import os
import pathlib
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch

from .kills import unsound
from .stages import wrap
from .trial import Bench, Trial, judged

NEW_USERS, NEW_MOUNTS = 0x10000000, 0x00020000  # of linux/sched.h
REMOUNT, DETACH = 32, 2  # of sys/mount.h
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)
WRITES = (
    (tempfile, "mkstemp"),
    (safetensors.torch, "save_file"),
    (pathlib.Path, "write_text"),
    (os, "fsync"),
    (os, "replace"),
)
"""The calls by which a run's files come to be."""


def own_mounts() -> bool:
    """Let this process mount file systems that nobody else sees; whether the system allows it. One thread only."""
    if not (probe := os.fork()):  # half of it may be allowed, and there is no way back
        try:
            _unshare()
            with tempfile.TemporaryDirectory() as folder:
                _mount(Path(folder), 1)
                _unmount(Path(folder))
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(probe, 0)[1]:
        return False
    _unshare()
    return True


def _unshare() -> None:
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(NEW_USERS | NEW_MOUNTS):
        raise OSError("no file systems of its own")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")


def trials(bench: Bench, turns: Iterable[int], mounts: bool) -> Iterator[Trial]:
    """A disk that refuses for each turn. Without ``mounts`` no disk is really full."""
    ways = [_full, _limited, _failing] if mounts else [_limited, _failing]
    for turn in turns:
        folder = bench.folder()
        yield ways[turn % len(ways)](bench, folder)
        bench.done(folder)


def _full(bench: Bench, folder: Path) -> Trial:
    """A file system of its own that has less room than the run takes; more of it before the run goes on."""
    size = bench.random.randrange(2, _room(bench.whole))
    _mount(folder, size)
    try:
        return _refused(bench, folder, f"file system of {size} pages", None, lambda: _mount(folder, 10_000, REMOUNT))
    finally:
        _unmount(folder)


def _room(folder: Path) -> int:
    """Pages of memory that a folder's files take."""
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // resource.getpagesize()) for size in files)


def _mount(folder: Path, pages: int, flags: int = 0) -> None:
    options = f"size={pages * resource.getpagesize()}".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", str(folder).encode(), b"tmpfs", flags, options):
        raise OSError(ctypes.get_errno(), "no file system in memory can be mounted")


def _unmount(folder: Path) -> None:
    ctypes.CDLL(None).umount2(str(folder).encode(), DETACH)


def _limited(bench: Bench, folder: Path) -> Trial:
    """No file may be larger than some of the run's are."""
    largest = max(path.stat().st_size for path in bench.whole.rglob("*") if path.is_file())
    size = bench.random.randrange(100, largest)
    limits = (size, resource.RLIM_INFINITY)
    return _refused(bench, folder, "file size limit", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))


def _failing(bench: Bench, folder: Path) -> Trial:
    """One call fails, before or after it has done its work by half."""
    number, (owner, name), left = bench.random.choice(ERRORS), bench.random.choice(WRITES), [bench.random.randrange(12)]

    def fail(call: Callable[[], Any], *arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise OSError(number, os.strerror(number))
        return call()

    what = f"{errno.errorcode[number]} from {name}"
    return _refused(bench, folder, what, lambda: wrap(owner, name, fail))


def _refused(
    bench: Bench,
    folder: Path,
    what: str,
    before: Callable[[], None] | None,
    repair: Callable[[], None] = lambda: None,
) -> Trial:
    process = bench.start(folder, before=before)
    code = process.wait()
    outcome, line = ("survived", "") if code == 0 else judged(code, process.said, ("run",))
    broken = unsound(folder)
    repair()
    if outcome != "lost" and not broken:
        outcome, after = bench.resumed(folder)
        line = after or line
    return Trial("disk", what, "run", "lost" if broken else outcome, broken or line)
