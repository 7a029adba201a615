"""The samples that rows differ on, as the report shows them: a label, and a picture from a child that reads the data again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accel.errors import AccelError
from accel.report import Row, Sample
from accel.rows import Found
from accel.sessions import Sessions

_THUMBNAILS_LIMIT_S = 600.0


def collect(rows: Sequence[Row], reference: Found | None, sessions: Sessions, warn: Callable[[str], None]) -> list[Sample]:
    """Each sample that a row names in ``differing``, once, by its index; none where there is no ``reference`` to differ from.

    Pictures are made in a child: reading data runs user code. One that fails costs the pictures, and ``warn`` is told.
    """
    indices = sorted({entry.sample for row in rows for entry in row.differing})
    if reference is None or not indices:
        return []
    labels = _labels(reference, indices)
    try:
        pictures = _pictures(reference, sessions, indices)
    except AccelError as error:
        warn(f"the samples that differ most are shown without pictures: {error}")
        pictures = [None] * len(indices)
    return [
        Sample(index=index, label=label, thumbnail=picture)
        for index, label, picture in zip(indices, labels, pictures, strict=True)
    ]


def _labels(reference: Found, indices: Sequence[int]) -> list[int | None]:
    import numpy as np

    file = (reference.score or {}).get("labels")
    if file is None:
        return [None] * len(indices)
    labels = np.load(file, allow_pickle=False)
    return [int(labels[index]) for index in indices]


def _pictures(reference: Found, sessions: Sessions, indices: Sequence[int]) -> list[str | None]:
    with sessions.open(reference.subject, "pictures of samples") as worker:
        worker.result(timeout_s=_THUMBNAILS_LIMIT_S)
        found: list[str | None] = worker.call("thumbnails", timeout_s=_THUMBNAILS_LIMIT_S, indices=list(indices))
        return found
