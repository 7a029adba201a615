"""``accel list``: passes, backends and tasks, each with the first sentence of its documentation."""

from __future__ import annotations

import inspect
import json as json_module
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from accel import catalog
from accel.benchmarks.untrusted import plain


def run(*, json: bool, out: Console) -> int:
    """Print the catalogue. A plug-in that cannot be imported is listed with the reason."""
    record = {
        "passes": _described(catalog.passes()),
        "backends": _described(catalog.backends()),
        "tasks": _described(catalog.tasks()),
    }
    if json:
        out.file.write(json_module.dumps(record, indent=2) + "\n")
        return 0
    for kind, entries in record.items():
        out.print(Text(kind))
        width = max((len(name) for name in entries), default=0)
        for name, text in entries.items():
            out.print(Text(f"  {plain(name):<{width}}  {plain(text)}"), soft_wrap=True)
    return 0


def _described(table: Mapping[str, str]) -> dict[str, str]:
    return {name: _first_sentence(reference) for name, reference in sorted(table.items())}


def _first_sentence(reference: str) -> str:
    try:
        found = catalog.load(reference)
    except (ImportError, AttributeError) as error:
        return f"cannot be imported: {error}"
    paragraph = inspect.cleandoc(found.__doc__ or "").partition("\n\n")[0]
    sentence = " ".join(paragraph.split()).partition(". ")[0]
    return sentence.replace("``", "").rstrip(".")
