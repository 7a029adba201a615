"""The content-addressed store: what a step made, under the digest of everything that decided it.

    CACHEDIR.TAG
    steps/<key>/entry.json      written last: its presence is the commit
    steps/<key>/files/...
    work/<key>/                 a step in progress; wiped by the next claim of the same key
    scratch/<key>/              survives a kill, gone at commit
    locks/<key>.lock            held while a step is computed: two runs never compute the same one
    runs/<id>/                  what a run needs only while it lives

Files are copied in and out, never linked: onnx refuses external data behind a link. An entry that does not verify is evicted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.atomic import exclusive, sha256_file, storage_faults, sync_tree, try_exclusive, write

STORE_VERSION = 2
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache made by accel; it may be deleted at any time.\n"


def canonical(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value).encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A finished step. ``meta`` is what it wants to be remembered with; ``digest`` covers the bytes of all files."""

    key: str
    folder: Path
    meta: Mapping[str, Any]
    files: Mapping[str, str]
    size_bytes: int
    used: float

    @property
    def digest(self) -> str:
        return digest_of(dict(self.files))


@dataclass(frozen=True)
class Claim:
    """The right to compute one key. ``folder`` is empty and becomes the entry's files; ``scratch`` may hold checkpoints."""

    key: str
    folder: Path
    scratch: Path
    _commit: Callable[[Mapping[str, Any]], Entry]

    def commit(self, meta: Mapping[str, Any]) -> Entry:
        """Publish ``folder`` with ``meta``; all or nothing."""
        return self._commit(meta)


class Store:
    """A folder of finished steps. ``warn`` is called with one sentence for every entry that had to be thrown away."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        self.folder = folder
        self._warn = warn
        self._held: dict[str, int] = {}

    def open(self) -> None:
        """Make the folder and throw away what killed runs left behind."""
        with storage_faults(self.folder):
            for name in ("steps", "work", "scratch", "locks", "runs"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            tag = self.folder / "CACHEDIR.TAG"
            if not tag.exists():
                write(tag, _TAG)
        self.sweep()

    def find(self, key: str, *, evict: bool = True) -> Entry | None:
        """The verified entry for ``key``. One that is damaged or of another version is evicted, with a warning.

        What was found stays: until ``release``, or the end of this process, nobody removes it to free space.
        ``evict=False`` only looks: nothing is removed or held.
        """
        place = self.folder / "steps" / key
        if not place.exists():
            return None
        if not evict:
            return self._read(key, verify=False)[0]
        self._hold(key)
        entry, fault = self._read(key, verify=True)
        if entry is None:
            self._warn(f"stored step {key[:12]} was thrown away and is made again: {fault}")
            self._evict(key)
            return None
        with suppress(OSError):
            os.utime(place / "entry.json")
        return entry

    @contextmanager
    def claim(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[Claim]:
        """Hold ``key`` alone. Look again with :meth:`find` inside: another run may have finished it meanwhile."""
        with exclusive(self.folder / "locks" / f"{key}.lock", waiting=waiting):
            work = self.folder / "work" / key
            scratch = self.folder / "scratch" / key
            with storage_faults(work):
                shutil.rmtree(work, ignore_errors=True)
                (work / "files").mkdir(parents=True)
                scratch.mkdir(parents=True, exist_ok=True)
            try:
                yield Claim(key, work / "files", scratch, lambda meta: self._commit(key, meta))
            finally:
                shutil.rmtree(work, ignore_errors=True)
                with suppress(OSError):
                    scratch.rmdir()  # only if no checkpoint was left in it

    @contextmanager
    def run_folder(self) -> Iterator[Path]:
        """A folder that lives as long as this run; what a killed run leaves is swept by the next one."""
        folder = self.folder / "runs" / f"{os.getpid()}-{time.monotonic_ns():x}"
        with storage_faults(folder):
            folder.mkdir(parents=True)
        try:
            with exclusive(folder / "lock"):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """Every readable entry, the least recently used first; nothing is verified."""
        found = []
        for place in (self.folder / "steps").glob("*"):
            entry, _ = self._read(place.name, verify=False)
            if entry is not None:
                found.append(entry)
        return sorted(found, key=lambda entry: entry.used)

    def verify(self) -> list[str]:
        """Evict every damaged entry; one sentence for each."""
        faults = []
        for place in sorted((self.folder / "steps").glob("*")):
            entry, fault = self._read(place.name, verify=True)
            if entry is None:
                faults.append(f"{place.name[:12]}: {fault}")
                self._evict(place.name)
        return faults

    def shrink(self, limit_bytes: int) -> tuple[int, int]:
        """Remove the least recently used entries until ``limit_bytes`` are left: (entries removed, bytes freed).

        An entry that a running process uses stays. Nothing left of killed runs stays, their checkpoints included.
        """
        self.sweep()
        for scratch in (self.folder / "scratch").glob("*"):
            self._if_free(self.folder / "locks" / f"{scratch.name}.lock", scratch)
        entries = self.entries()
        total = sum(entry.size_bytes for entry in entries)
        removed = freed = 0
        for entry in entries:
            if total - freed <= limit_bytes:
                break
            if self._in_use(entry.key):
                continue
            self._evict(entry.key)
            removed += 1
            freed += entry.size_bytes
        return removed, freed

    def sweep(self) -> None:
        """Remove work, locks and run folders that no living process holds; scratch with something in it stays for a resume."""
        locks = self.folder / "locks"
        for work in (self.folder / "work").glob("*"):
            self._if_free(locks / f"{work.name}.lock", work)
        for scratch in (self.folder / "scratch").glob("*"):
            if not any(scratch.iterdir()):
                self._if_free(locks / f"{scratch.name}.lock", scratch)
        for lock in locks.glob("*.lock"):
            self._if_free(lock, None)
        for run in (self.folder / "runs").glob("*"):
            if not (run / "lock").exists() and time.time() - run.stat().st_mtime < 60:
                continue  # just being made
            self._if_free(run / "lock", run)

    def _if_free(self, lock: Path, folder: Path | None) -> None:
        try:
            handle = try_exclusive(lock)
        except OSError:
            return
        if handle is None:
            return
        try:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def _commit(self, key: str, meta: Mapping[str, Any]) -> Entry:
        work = self.folder / "work" / key
        place = self.folder / "steps" / key
        with storage_faults(work):
            files = {
                path.relative_to(work / "files").as_posix(): path
                for path in sorted((work / "files").rglob("*"))
                if path.is_file()
            }
            entry = {
                "store_version": STORE_VERSION,
                "key": key,
                "meta": dict(meta),
                "files": {name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for name, path in files.items()},
            }
            (work / "entry.json").write_text(json.dumps(entry, indent=1, allow_nan=False), encoding="utf-8")
            sync_tree(work)
            if place.exists():
                self._evict(key)
            work.rename(place)
            self._hold(key)
        shutil.rmtree(self.folder / "scratch" / key, ignore_errors=True)
        committed, fault = self._read(key, verify=False)
        if committed is None:
            raise OSError(f"{place}: {fault}")
        return committed

    def _read(self, key: str, *, verify: bool) -> tuple[Entry | None, str]:
        place = self.folder / "steps" / key
        try:
            raw = json.loads((place / "entry.json").read_text(encoding="utf-8"))
            if raw["store_version"] != STORE_VERSION:
                return None, f"it is of version {raw['store_version']} of the store, this is {STORE_VERSION}"
            files = {name: str(record["sha256"]) for name, record in raw["files"].items()}
            size = sum(int(record["bytes"]) for record in raw["files"].values())
            for name, record in raw["files"].items():
                path = place / "files" / name
                if not path.is_file() or path.stat().st_size != record["bytes"]:
                    return None, f"{name} is missing or truncated"
                if verify and sha256_file(path) != record["sha256"]:
                    return None, f"{name} does not have the bytes that were stored"
            return Entry(key, place / "files", raw["meta"], files, size, (place / "entry.json").stat().st_mtime), ""
        except FileNotFoundError:
            return None, "its entry.json is missing"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return None, f"its entry.json cannot be read ({type(error).__name__})"

    def release(self) -> None:
        """Let go of every entry that was found: another process may now remove it."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _hold(self, key: str) -> None:
        """Share a lock on the entry until ``release``, or until this process ends."""
        if key not in self._held:
            with suppress(OSError):
                handle = os.open(self.folder / "steps" / key / "entry.json", os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(handle, fcntl.LOCK_SH)
                self._held[key] = handle

    def _in_use(self, key: str) -> bool:
        """Whether another process holds the entry."""
        try:
            handle = os.open(self.folder / "steps" / key / "entry.json", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def _evict(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            os.close(held)
        place = self.folder / "steps" / key
        doomed = self.folder / "work" / f"{key}.evicted-{os.getpid()}"
        with suppress(OSError):
            place.rename(doomed)  # so that no reader sees half of it
            shutil.rmtree(doomed, ignore_errors=True)
