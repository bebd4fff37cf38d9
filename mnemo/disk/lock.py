"""A lock that one process holds, and that ends with it however it ends."""

import contextlib
import datetime
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from .files import InputError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

BLOCKED = (BlockingIOError, PermissionError)
"""What flock raises where another holds the lock: the latter on some network file systems."""


@contextlib.contextmanager
def folder(path: Path) -> Iterator[None]:
    """Hold a folder for the block; it is made if need be, and taken away again if nothing was put there.

    Raises:
        InputError: another process holds it, or this one already does; the line says who and since when.
        OSError: the disk refuses.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        with _held(path / ".lock", f"{path}: another run is under way there"):
            yield
    finally:
        with contextlib.suppress(OSError):  # the first that holds something, and all above it, stay
            for each in missing:
                each.rmdir()


@contextlib.contextmanager
def file(path: Path) -> Iterator[None]:
    """Hold a file or folder that several runs make and share, which need not be there yet, for the block.

    Where another process holds it, this one waits, and a warning is logged that says for whom. The folder that it is to
    be in is made if need be.

    Raises:
        OSError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path.with_name(f".{path.name.lstrip('.')}.lock"), f"{path}: another run is making it", wait=True):
        yield


@contextlib.contextmanager
def _held(path: Path, complaint: str, wait: bool = False) -> Iterator[None]:
    if sys.platform == "win32":  # it has no flock
        yield
        return
    handle = _opened(path, complaint, wait)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go: whoever opens it from now on makes a new one
        os.close(handle)


def _opened(path: Path, complaint: str, wait: bool) -> int:
    """A handle of the file, locked and with this process's name in it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _locked(handle, path):
                if not wait:
                    raise InputError(f"{complaint} ({_holder(handle)}); wait for it, or take another folder")
                log.warning("%s (%s); waiting for it", complaint, _holder(handle))
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is(path, handle):  # its holder took it away between the two
                os.close(handle)
                continue
            os.ftruncate(handle, 0)
            os.pwrite(handle, _name().encode(), 0)
            return handle
        except BaseException:
            os.close(handle)
            raise


def _locked(handle: int, path: Path) -> bool:
    """Whether this process holds it now; where the file system has no locks, a RuntimeWarning and True."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BLOCKED:
        return False
    except OSError as error:
        warnings.warn(f"{path}: no lock ({error.strerror}): nothing keeps two runs apart", RuntimeWarning, stacklevel=5)
    return True


def _holder(handle: int) -> str:
    for _ in range(10):
        if name := os.pread(handle, 1000, 0).decode(errors="replace").strip():
            return name
        time.sleep(0.02)  # it holds the file, and is about to write its name
    return "a process that has not given its name"


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _name() -> str:
    since = datetime.datetime.now().astimezone().isoformat(" ", timespec="seconds")
    return f"process {os.getpid()} on {platform.node()} since {since}\n"
