"""Writing so that a reader never sees half a file and a kill leaves the old one: beside its place, synced, renamed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accel.errors import StorageFault

_WAY_OUT = {
    errno.ENOSPC: "the disk is full; free some space, or point --output and --cache-dir elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space, or point --output and --cache-dir elsewhere",
    errno.EROFS: "the file system is read-only; point --output and --cache-dir elsewhere",
    errno.EACCES: "permission denied; point --output and --cache-dir to a folder you may write",
    errno.EPERM: "permission denied; point --output and --cache-dir to a folder you may write",
    errno.EISDIR: "is a folder; name a file in it",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the path is too long; choose a shorter name or --output",
}


_ROOM_BYTES = 1 << 16
_WAITING_S = 30.0


def storage_fault(error: OSError, place: object) -> StorageFault | None:
    """The fault, with its way out, that an operating system error about ``place`` means; None if it is another kind."""
    way_out = _WAY_OUT.get(error.errno or 0)
    return None if way_out is None else StorageFault(f"{place}: {way_out}")


@contextmanager
def storage_faults(place: Path) -> Iterator[None]:
    """Turn an operating system error about ``place`` into a StorageFault that says the way out."""
    try:
        yield
    except OSError as error:
        fault = storage_fault(error, place)
        if isinstance(error, FileNotFoundError):
            fault = StorageFault(f"{place}: its folder is not there and cannot be made; choose another --output or --cache-dir")
        if fault is None:
            raise
        raise fault from error


def require_room(folder: Path) -> None:
    """Raise StorageFault if the disk under ``folder`` is as good as full: what a library's obscure error then means."""
    if shutil.disk_usage(folder).free < _ROOM_BYTES:
        raise StorageFault(f"{folder}: {_WAY_OUT[errno.ENOSPC]}")


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder``, and itself."""
    for directory, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(directory) / name)
        sync(Path(directory))


def write(path: Path, content: bytes | str) -> None:
    """Replace ``path`` by ``content`` in one step. Raises StorageFault; the old file is then untouched.

    A link is followed, and a device or pipe (``/dev/stdout``) is written to: it is the user's, not ours to replace.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    if path.is_char_device() or path.is_fifo():
        with storage_faults(path):
            path.write_bytes(data)
        return
    path = path.resolve() if path.is_symlink() else path
    temporary = path.parent / f".{path.name[:80]}.{os.getpid()}.partial"
    with storage_faults(path):
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def swap_folder(staging: Path, final: Path) -> None:
    """Put ``staging`` in the place of ``final``. A kill in between is repaired by :func:`repair_folder`."""
    previous = final.parent / f".{final.name}.previous"
    with storage_faults(final):
        sync_tree(staging)
        shutil.rmtree(previous, ignore_errors=True)
        if final.exists():
            final.rename(previous)
        staging.rename(final)
        sync(final.parent)
        shutil.rmtree(previous, ignore_errors=True)


def repair_folder(final: Path) -> None:
    """Undo what a kill inside :func:`swap_folder` left: the old folder comes back, or goes if the new one is in place."""
    previous = final.parent / f".{final.name}.previous"
    if previous.exists():
        if final.exists():
            shutil.rmtree(previous, ignore_errors=True)
        else:
            previous.rename(final)


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def exclusive(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file ``path``; wait for another process that does, calling ``waiting`` now and then. Freed by any death.

    The file is removed on release, so the holder checks after locking that the file it locked is still the one at the path.
    """
    while True:
        with storage_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            said = -_WAITING_S
            while not _try_lock(handle):
                if waiting is not None and time.monotonic() - said > _WAITING_S:
                    waiting()
                    said = time.monotonic()
                time.sleep(0.1)
            if _same_file(handle, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_exclusive(path: Path) -> int | None:
    """Lock ``path`` without waiting: its descriptor, to be given to ``os.close``; None while another process holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if _try_lock(handle):
        return handle
    os.close(handle)
    return None


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
