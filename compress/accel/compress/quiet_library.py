"""Keeps a library's own chatter out of the user's terminal and out of ``--json``'s standard output."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No prints, warnings or log records below CRITICAL while the block runs; what raises still raises.

    The one place for it, because: torch's exporter raises its own FutureWarnings (LeafSpec, torch 2.13) and logs version
    advice, torch.export prints the whole traced program where it fails; onnxslim,
    onnxruntime.quantization and NNCF print progress on standard output and log advice that is wrong here
    ("please run pre-processing"). What matters to the user is checked after the call and told in the step's notes.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
