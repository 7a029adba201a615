"""The worker: a child that crashes, hangs, runs out of memory or prints costs one error (faults 16, 43, 44)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel.errors import DataFault, WorkerFault, WorkFault
from accel.worker import Worker

CHILD = """
import ctypes, os, resource, signal, sys, time
from accel.errors import DataFault

class Child:
    def __init__(self, emit, word="hello"):
        print("noise on standard output")
        self.emit, self.word = emit, word
    def say(self, times=1):
        self.emit({"done": 1, "total": 2, "what": "words"})
        print("more noise")
        return [self.word] * times
    def fail(self): raise DataFault("sample 3 is broken; remove it")
    def bug(self): return {}["missing"]
    def leave(self): sys.exit("user code left")
    def segfault(self):
        self.emit({"doing": "compiling for a test"})
        sys.stderr.write("last words\\n"); sys.stderr.flush()
        ctypes.string_at(0)
    def abort(self): os.abort()
    def vanish(self): os._exit(7)
    def kill(self): os.kill(os.getpid(), signal.SIGKILL)
    def hang(self): time.sleep(600)
    def memory(self): raise MemoryError("no room")
    def limit(self):
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return len(bytearray(8 << 30))
    def native_memory(self): raise RuntimeError("std::bad_alloc")
    def pid(self): return os.getpid()

def broken(emit): raise DataFault("cannot start")
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "child_for_worker.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    return tmp_path


def start(child: Path, function: str = "Child", **arguments: object) -> Worker:
    return Worker("the child", f"child_for_worker:{function}", arguments, log=child / "log")


def test_calls_events_and_noise(child: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[dict[str, object]] = []
    with start(child, word="hi") as worker:
        worker.result()
        assert worker.call("say", times=2, on_event=events.append) == ["hi", "hi"]
        assert worker.call("say") == ["hi"]
    assert events == [{"done": 1, "total": 2, "what": "words"}]
    assert "noise" not in capfd.readouterr().out
    assert "more noise" in (child / "log").read_text()


def test_an_error_of_ours_keeps_its_class(child: Path) -> None:
    with start(child) as worker:
        worker.result()
        with pytest.raises(DataFault, match=r"^sample 3 is broken; remove it$"):
            worker.call("fail")
        assert worker.call("say") == ["hello"], "the child goes on after an error"


def test_an_error_at_the_start(child: Path) -> None:
    with start(child, "broken") as worker, pytest.raises(DataFault, match="cannot start"):
        worker.result()


@pytest.mark.parametrize(("method", "said"), [("bug", "bug: KeyError: 'missing'"), ("leave", "SystemExit: user code left")])
def test_any_other_error_names_the_method(child: Path, method: str, said: str) -> None:
    with start(child) as worker:
        worker.result()
        with pytest.raises(WorkFault, match=said):
            worker.call(method)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("segfault", "SIGSEGV while compiling for a test"),
        ("segfault", "last words"),
        ("abort", "SIGABRT while abort"),
        ("vanish", "exit code 7 before it answered while vanish"),
        ("kill", "SIGKILL, probably by the system for want of memory"),
    ],
)
def test_a_death_names_signal_stage_and_last_words(child: Path, method: str, said: str) -> None:
    with start(child) as worker:
        worker.result()
        with pytest.raises(WorkerFault, match=said):
            worker.call(method)


def test_a_hang_is_stopped(child: Path) -> None:
    with start(child) as worker:
        worker.result()
        began = time.monotonic()
        with pytest.raises(WorkerFault, match=r"hang did not end within 0\.3 s"):
            worker.call("hang", timeout_s=0.3)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("method", ["memory", "limit", "native_memory"])
def test_out_of_memory_names_stage_and_peak(child: Path, method: str) -> None:
    with start(child) as worker:
        worker.result()
        with pytest.raises(WorkerFault, match=rf"out of memory at {method} \(peak \d+ MiB\)"):
            worker.call(method)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_children_die_with_a_killed_parent(child: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from accel.worker import Worker\n"
        "w = Worker('c', 'child_for_worker:Child', {}, log=Path(sys.argv[1]))\n"
        "w.result(); print(w.call('pid'), flush=True); w.request('hang'); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(child / "log2")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
