"""The store: atomic, verified, shared by runs, and without litter after a kill (faults 50 to 54)."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from accel import atomic, store
from accel.errors import StorageFault
from accel.store import Store, canonical, digest_of


@pytest.fixture
def shelf(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.open()
    return made


def put(shelf: Store, key: str = "k", text: str = "content") -> None:
    with shelf.claim(key) as claim:
        (claim.folder / "sub").mkdir()
        (claim.folder / "sub" / "file.txt").write_text(text)
        claim.commit({"said": text})


def warned(shelf: Store) -> list[str]:
    said: list[str] = []
    shelf._warn = said.append
    return said


def test_finds_what_was_committed(shelf: Store) -> None:
    assert shelf.find("k") is None
    put(shelf)
    entry = shelf.find("k")
    assert entry is not None
    assert entry.meta == {"said": "content"}
    assert (entry.folder / "sub" / "file.txt").read_text() == "content"
    assert entry.size_bytes == len("content")


def test_digest_depends_on_content_only(shelf: Store) -> None:
    put(shelf, "a", "same")
    put(shelf, "b", "same")
    put(shelf, "c", "other")
    digests = {key: entry.digest for key in "abc" if (entry := shelf.find(key)) is not None}
    assert digests["a"] == digests["b"] != digests["c"]


def test_a_claim_without_commit_leaves_nothing(shelf: Store) -> None:
    with pytest.raises(ValueError, match="half-way"), shelf.claim("k") as claim:
        (claim.folder / "file").write_text("half")
        raise ValueError("half-way")
    assert shelf.find("k") is None
    assert _tree(shelf) == []


def test_scratch_survives_an_uncommitted_claim_and_goes_at_commit(shelf: Store) -> None:
    with pytest.raises(ValueError, match="killed"), shelf.claim("k") as claim:
        (claim.scratch / "checkpoint").write_text("7")
        raise ValueError("killed")
    with shelf.claim("k") as claim:
        assert (claim.scratch / "checkpoint").read_text() == "7"
        claim.commit({})
    assert not (shelf.folder / "scratch" / "k").exists()


def _flip(place: Path) -> None:
    file = place / "files" / "sub" / "file.txt"
    file.write_bytes(b"c0ntent")


def _truncate(place: Path) -> None:
    (place / "files" / "sub" / "file.txt").write_bytes(b"con")


def _lose_file(place: Path) -> None:
    (place / "files" / "sub" / "file.txt").unlink()


def _lose_manifest(place: Path) -> None:
    (place / "entry.json").unlink()


def _garble_manifest(place: Path) -> None:
    (place / "entry.json").write_text("{not json")


def _age(place: Path) -> None:
    record = json.loads((place / "entry.json").read_text())
    record["store_version"] = 0
    (place / "entry.json").write_text(json.dumps(record))


@pytest.mark.parametrize("damage", [_flip, _truncate, _lose_file, _lose_manifest, _garble_manifest, _age])
def test_a_damaged_entry_is_evicted_with_a_warning(shelf: Store, damage: Any) -> None:
    put(shelf)
    damage(shelf.folder / "steps" / "k")
    said = warned(shelf)
    assert shelf.find("k") is None
    assert len(said) == 1
    assert "made again" in said[0]
    put(shelf)
    assert shelf.find("k") is not None


def test_a_killed_holder_leaves_no_litter(shelf: Store) -> None:
    program = (
        "import sys, time; from pathlib import Path; from accel.store import Store\n"
        "s = Store(Path(sys.argv[1]))\n"
        "with s.run_folder(), s.claim('k') as c:\n"
        "    (c.folder / 'half').write_text('x'); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(shelf.folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        process.send_signal(signal.SIGKILL)
    assert _tree(shelf) != []
    shelf.open()
    assert _tree(shelf) == []
    put(shelf)
    assert shelf.find("k") is not None


def test_sweeping_leaves_what_a_living_run_holds(shelf: Store) -> None:
    with shelf.run_folder() as folder, shelf.claim("k") as claim:
        (claim.folder / "file").write_text("x")
        Store(shelf.folder).open()
        assert folder.exists()
        assert (claim.folder / "file").exists()


def test_two_processes_never_compute_the_same_step(shelf: Store, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from accel.store import Store\n"
        "s = Store(Path(sys.argv[1])); log = Path(sys.argv[2])\n"
        "with s.claim('k') as c:\n"
        "    if s.find('k') is None:\n"
        "        with log.open('a') as f: f.write('computed\\n')\n"
        "        time.sleep(0.3); (c.folder / 'f').write_text('x'); c.commit({})\n"
    )
    log = tmp_path / "log"
    running = [subprocess.Popen([sys.executable, "-c", program, str(shelf.folder), str(log)]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert log.read_text() == "computed\n"
    assert _tree(shelf) == []


def test_shrink_removes_the_least_recently_used(shelf: Store) -> None:
    for key in "abc":
        put(shelf, key, key * 100)
        os.utime(shelf.folder / "steps" / key / "entry.json", (ord(key), ord(key)))
    assert shelf.find("a") is not None  # used now
    shelf.release()
    assert shelf.shrink(200) == (1, 100)
    assert [entry.key for entry in shelf.entries()] == ["c", "a"]


def test_shrink_leaves_what_a_running_process_uses_and_takes_old_checkpoints(shelf: Store) -> None:
    put(shelf, "used")
    put(shelf, "free")
    shelf.release()
    other = Store(shelf.folder)
    assert other.find("used") is not None
    (shelf.folder / "scratch" / "killed").mkdir()
    (shelf.folder / "scratch" / "killed" / "checkpoint").write_text("old")
    assert shelf.shrink(0) == (1, len("content"))
    assert [entry.key for entry in shelf.entries()] == ["used"]
    assert _tree(shelf) == []
    other.release()
    assert shelf.shrink(0) == (1, len("content"))


def test_looking_neither_removes_nor_holds(shelf: Store) -> None:
    put(shelf)
    shelf.release()
    assert Store(shelf.folder).find("k", evict=False) is not None
    _truncate(shelf.folder / "steps" / "k")
    assert shelf.find("k", evict=False) is None
    assert (shelf.folder / "steps" / "k").exists()


def test_verify_reports_and_removes_damaged_entries(shelf: Store) -> None:
    put(shelf, "good")
    put(shelf, "bad")
    _flip(shelf.folder / "steps" / "bad")
    assert [fault.partition(":")[0] for fault in shelf.verify()] == ["bad"]
    assert [entry.key for entry in shelf.entries()] == ["good"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_full_or_closed_disk_at_commit_is_a_storage_fault(shelf: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(code, os.strerror(code), str(folder))

    monkeypatch.setattr(store, "sync_tree", refuse)
    with pytest.raises(StorageFault, match=r"--cache-dir|--output"), shelf.claim("k") as claim:
        (claim.folder / "file").write_text("x")
        claim.commit({})
    assert shelf.find("k") is None
    assert _tree(shelf) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "file"
    atomic.write(place, "old")

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageFault, match="disk is full"):
        atomic.write(place, "new")
    assert place.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_kill_between_the_two_renames_of_a_swap_is_repaired(tmp_path: Path) -> None:
    final = tmp_path / "out"
    final.mkdir()
    (final / "old").write_text("old")
    final.rename(tmp_path / ".out.previous")  # where the kill would leave it
    atomic.repair_folder(final)
    assert (final / "old").read_text() == "old"
    staging = tmp_path / ".out.partial"
    staging.mkdir()
    (staging / "new").write_text("new")
    atomic.swap_folder(staging, final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_lock_is_waited_for_and_its_file_removed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = (
        "import sys, time; from pathlib import Path; from accel.atomic import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(0.5)\n"
    )
    waited: list[float] = []
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with atomic.exclusive(lock, waiting=lambda: waited.append(time.monotonic())):
            assert waited
            assert time.monotonic() - waited[0] > 0.1
    assert not lock.exists()


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    assert digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


def _tree(shelf: Store) -> list[str]:
    """What is neither an entry nor the fixed folders."""
    return sorted(
        str(path.relative_to(shelf.folder))
        for name in ("work", "locks", "runs", "scratch")
        for path in (shelf.folder / name).rglob("*")
    )
