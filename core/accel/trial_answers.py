"""One candidate at a time, compiled for its target in a child process and asked from here: how a probe lets models be judged.

Arrays travel as files in a folder that both sides see, so that nothing of the task, nor of the user's code, is needed in the
child: what runs there is the file that would ship, on the runtime it would ship for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.errors import AccelError, DataFault, PassFault, StorageFault, UsageError, WorkerFault
from accel.model import Model, OnnxModel, signature_record
from accel.worker import Worker

if TYPE_CHECKING:
    from accel.contracts import Array

LIMIT_S = 600.0
"""The longest silence of a candidate that is compiled, or asked for one batch."""


class Answers:
    """``start`` makes the child in an empty folder; ``file`` makes a model a file in one; ``backend``: its name, for errors.

    The child is started with the first candidate, and again where one has ended it.
    """

    def __init__(
        self, start: Callable[[Path], Worker], file: Callable[[Model, Path], OnnxModel], folder: Path, backend: str
    ) -> None:
        self._start = start
        self._file = file
        self._folder = folder
        self._backend = backend
        self._child: Worker | None = None

    @contextmanager
    def compiled(self, model: Model) -> Iterator[Callable[[Mapping[str, Array]], list[Array]]]:
        """``model`` for the time of a block: inputs by name, any number of samples, to outputs in the signature's order.

        Raises PassFault where it cannot be compiled or run, DataFault where an input is missing.
        """
        place = Path(tempfile.mkdtemp(dir=self._folder, prefix="candidate-"))
        try:
            file = self._file(model, place)
            what = "be compiled for"
            self._call(what, "compile", path=str(file.path), signature=signature_record(file.signature), label="a candidate")
            yield lambda inputs: self._asked(file, inputs, place)
        finally:
            if self._child is not None:
                with suppress(AccelError):  # where it is this that fails, the next candidate gets a new child
                    self._call("be freed by", "forget")
            shutil.rmtree(place, ignore_errors=True)

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _asked(self, file: OnnxModel, inputs: Mapping[str, Array], place: Path) -> list[Array]:
        import numpy as np

        names = [spec.name for spec in file.signature.inputs]
        missing = [name for name in names if name not in inputs]
        if missing:
            raise DataFault(f"batches hold {', '.join(sorted(inputs))}, but the model takes {', '.join(missing)} too")
        given, found = place / "inputs.npz", place / "outputs.npz"
        np.savez(given, *(inputs[name] for name in names))
        self._call("run on", "answer", candidate=0, names=names, inputs=str(given), outputs=str(found))
        with np.load(found, allow_pickle=False) as outputs:
            return [outputs[f"arr_{index}"] for index in range(len(outputs.files))]

    def _call(self, what: str, method: str, **arguments: Any) -> Any:
        if self._child is None:
            self._child = self._start(Path(tempfile.mkdtemp(dir=self._folder, prefix="child-")))
        try:
            return self._child.call(method, timeout_s=LIMIT_S, **arguments)
        except (StorageFault, UsageError):
            raise
        except AccelError as error:
            if isinstance(error, WorkerFault):
                self.close()
            raise PassFault(f"the candidate cannot {what} {self._backend}: {error}") from error
        except BaseException:  # an interrupt in the middle of an answer: nothing more can be asked
            self.close()
            raise
