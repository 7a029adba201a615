from __future__ import annotations

import os
from pathlib import Path

import pytest

from accel.benchmarks.caches import last_level


def cache(root: Path, core: int, index: int, *, level: str, size: str, shared: str, kind: str = "Unified") -> None:
    folder = root / f"sys/devices/system/cpu/cpu{core}/cache/index{index}"
    folder.mkdir(parents=True)
    for name, text in (("level", level), ("size", size), ("shared_cpu_list", shared), ("type", kind)):
        (folder / name).write_text(f"{text}\n")


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})


@pytest.mark.usefixtures("four_cores")
def test_each_last_level_cache_counts_once(tmp_path: Path) -> None:
    for core in range(4):
        cache(tmp_path, core, 0, level="1", size="48K", shared=str(core), kind="Data")
        cache(tmp_path, core, 1, level="2", size="1024K", shared=str(core))
        cache(tmp_path, core, 3, level="3", size="32M", shared="0-1" if core < 2 else "2-3")
    assert last_level(tmp_path) == (32 << 20, 32 << 20)


@pytest.mark.usefixtures("four_cores")
def test_instruction_caches_and_text_that_is_no_size_do_not_count(tmp_path: Path) -> None:
    cache(tmp_path, 0, 0, level="1", size="32K", shared="0", kind="Instruction")
    cache(tmp_path, 0, 1, level="2", size="plenty", shared="0")
    assert last_level(tmp_path) == ()
    cache(tmp_path, 0, 2, level="1", size="48K", shared="", kind="Data")
    cache(tmp_path, 1, 2, level="1", size="48K", shared="", kind="Data")
    assert last_level(tmp_path) == (48 << 10, 48 << 10)


def test_a_system_that_does_not_tell_has_none(tmp_path: Path) -> None:
    assert last_level(tmp_path) == ()
