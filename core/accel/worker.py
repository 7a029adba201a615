"""A child process that serves one object: a crash, hang or out-of-memory in it costs one error, never the run.

The parent names ``module:function``; the child calls it with JSON arguments and then calls methods of what it returned, one
at a time. Messages are JSON lines over two pipes; arrays travel as files. What the child prints goes to its log, whose last
lines are shown when it dies. Children die with their parent (on Linux by PR_SET_PDEATHSIG, elsewhere at the next message).
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from accel import errors, telemetry
from accel.atomic import storage_fault
from accel.errors import AccelError, WorkerFault

Emit = Callable[[Mapping[str, Any]], None]
"""In the child: sends an event to the parent while a method runs."""

_OUT_OF_MEMORY = re.compile(r"bad_alloc|can't allocate|cannot allocate memory|not enough memory|out of memory", re.IGNORECASE)
_PR_SET_PDEATHSIG = 1
_HEARTBEAT_S = 5.0


class Worker:
    """The parent's end. ``name`` says in errors what the child was for."""

    def __init__(self, name: str, function: str, arguments: Mapping[str, Any], *, log: Path) -> None:
        self.name = name
        self._log_path = log
        self._doing = "starting"
        self._pending = b""
        self._peak_bytes = 0
        child_reads, self._requests = os.pipe()
        self._answers, child_writes = os.pipe()
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                # -P: else the current folder comes first on the child's path, and a file there stands in for a library.
                [sys.executable, "-P", "-m", "accel.worker", str(child_reads), str(child_writes), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=(child_reads, child_writes),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children
            )
        os.close(child_reads)
        os.close(child_writes)
        self.request("", function=function, **arguments)

    @property
    def group(self) -> int:
        """The process group that the child leads."""
        return self._process.pid

    def request(self, method: str, **arguments: Any) -> None:
        """Ask for ``method(**arguments)`` without waiting. ``result`` must be read before the next request."""
        self._doing = method or "starting"
        message = json.dumps({"method": method, "arguments": arguments}).encode() + b"\n"
        try:
            view = memoryview(message)
            while view:
                view = view[os.write(self._requests, view) :]
        except BrokenPipeError:
            raise self._death() from None

    def result(self, *, timeout_s: float | None = None, on_event: Callable[[dict[str, Any]], None] | None = None) -> Any:
        """What the last request returned. Raises its error as the class it had; WorkerFault if the child died or hangs.

        ``timeout_s``: the longest silence; each event starts it anew. ``on_event`` also gets ``{"silent_s": ...}``.
        """
        while True:
            message = json.loads(self._line(timeout_s, on_event))
            if "event" in message:
                self._doing = message["event"].get("doing", self._doing)
                self._peak_bytes = message["event"].pop("peak_bytes", self._peak_bytes)
                if on_event is not None:
                    on_event(message["event"])
            elif "error" in message:
                raise errors.named(message["error"]["type"])(message["error"]["message"])
            else:
                return message["result"]

    def call(
        self,
        method: str,
        *,
        timeout_s: float | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        **arguments: Any,
    ) -> Any:
        """``request`` and ``result`` in one."""
        self.request(method, **arguments)
        return self.result(timeout_s=timeout_s, on_event=on_event)

    def close(self) -> None:
        """End the child and whatever it started, now."""
        if self._process.poll() is None:
            self._kill()
        self._process.wait()
        for handle in (self._requests, self._answers):
            if handle >= 0:
                os.close(handle)
        self._requests = self._answers = -1

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a session of its own: loaders of user code die with it
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _line(self, timeout_s: float | None, on_event: Callable[[dict[str, Any]], None] | None) -> bytes:
        began = time.monotonic()
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while b"\n" not in self._pending:
            silent = time.monotonic() - began
            left = _HEARTBEAT_S if timeout_s is None else min(_HEARTBEAT_S, timeout_s - silent)
            if left <= 0:
                self._kill()
                raise WorkerFault(f"{self.name}: {self._doing} did not end within {timeout_s:g} s and was stopped{self._log()}")
            if not poll.poll(left * 1000):
                if on_event is not None:
                    on_event({"silent_s": time.monotonic() - began})
                continue
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                raise self._death()
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _death(self) -> WorkerFault:
        code = self._process.wait()
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += f", probably by the system for want of memory (peak seen: {self._peak_bytes / 2**20:.0f} MiB)"
        else:
            how = f"ended with exit code {code} before it answered"
        return WorkerFault(f"{self.name}: the process {how} while {self._doing}{self._log()}")

    def _log(self) -> str:
        try:
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
        except OSError:
            return ""
        return "" if not lines else "\n    its last lines:\n" + "\n".join(f"    | {line[:300]}" for line in lines)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the one called ``parent`` dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)


def peak_memory_bytes() -> int:
    """The largest resident size this process has had. (On Linux getrusage would begin with the parent's: it survives exec.)"""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether a shortage of memory is behind it, also where a library or we have wrapped it."""
    while error is not None:
        if isinstance(error, MemoryError) or (not isinstance(error, AccelError) and _OUT_OF_MEMORY.search(str(error))):
            return True
        error = error.__cause__ or error.__context__
    return False


def _described(error: BaseException, doing: str) -> dict[str, str]:
    if _out_of_memory(error):
        peak = peak_memory_bytes() / 2**20
        return {"type": "WorkerFault", "message": f"out of memory at {doing} (peak {peak:.0f} MiB): {error or 'MemoryError'}"}
    if isinstance(error, OSError):
        error = storage_fault(error, error.filename2 or error.filename or doing) or error
    if isinstance(error, AccelError):
        return {"type": type(error).__name__, "message": str(error)}
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    return {"type": "WorkFault", "message": f"{doing}: {type(error).__name__}: {error}{place}"}


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """The child's loop, until the parent closes its end."""
    doing = "starting"

    def send(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message, allow_nan=False).encode() + b"\n")
        answers.flush()

    def emit(event: Mapping[str, Any]) -> None:
        nonlocal doing
        doing = str(event.get("doing", doing))
        send({"event": {**event, "peak_bytes": peak_memory_bytes()}})

    served: Any = None
    for line in requests:
        message = json.loads(line)
        doing = message["method"] or "starting"
        try:
            if message["method"]:
                result = getattr(served, message["method"])(**message["arguments"])
            else:
                module, _, name = message["arguments"].pop("function").partition(":")
                served = getattr(import_module(module), name)(emit=emit, **message["arguments"])
                result = None
            answer: dict[str, Any] = {"result": result}
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  the boundary: everything, SystemExit of user code too, goes to the parent
            with suppress(OSError):  # the log may lie on the disk that is full
                traceback.print_exc()
            answer = {"error": _described(error, doing)}
        send(answer)


def main() -> None:
    """Entry of the child: descriptors to read requests from and write answers to, and the parent's process id."""
    reads, writes, parent = (int(text) for text in sys.argv[1:4])
    die_with_parent(parent)
    telemetry.switch_off()
    with os.fdopen(reads, "rb") as requests, os.fdopen(writes, "wb") as answers:
        serve(requests, answers)
    os._exit(0)  # runtimes' own teardown has crashed before; everything that matters is written


if __name__ == "__main__":
    main()
