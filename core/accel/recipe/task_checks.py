"""What a recipe's task and its data must be to one another."""

from __future__ import annotations

from accel.recipe.document import Document
from accel.recipe.fields import suggestion
from accel.recipe.tree import shown
from accel.tasks.metric_names import BUILT_IN
from accel.tasks.settings import DataSettings, ImageClassificationSettings, TextSettings
from accel.tasks.splits import SPLITS

_TEXT_SOURCES = ("arrays", "csv", "factory")


def task(document: Document, settings: ImageClassificationSettings | TextSettings) -> None:
    """Metrics are built in, or a reference; only embeddings, which are held against the reference's, may have none."""
    known = BUILT_IN[settings.type]
    if not settings.metrics and settings.type != "embedding":
        document.report_at(("task", "metrics"), f"found an empty list, allowed: {', '.join(known)}, file.py:name")
    for index, metric in enumerate(settings.metrics):
        if ":" not in metric and metric not in known:
            near = suggestion(metric, list(known)) or f"; allowed: {', '.join(known)}, file.py:name, package.module:name"
            document.report_at(("task", "metrics", index), f"no metric is called {shown(metric)}{near}")


def data(document: Document, settings: DataSettings, task: ImageClassificationSettings | TextSettings | None) -> list[str]:
    """Data needs a task that reads it. Gives notes."""
    declared = [split for split in SPLITS if getattr(settings, split) is not None]
    if declared and task is None:
        document.report_at(("data",), f"nothing reads it: add `task: {{type: {next(iter(BUILT_IN))}}}`", key=True)
    if isinstance(task, TextSettings):
        _texts(document, settings, task)
    if "validation" not in declared:
        return ["no data.validation: accuracy is not measured"]
    return []


def _texts(document: Document, settings: DataSettings, task: TextSettings) -> None:
    for split in SPLITS:
        source = getattr(settings, split)
        if source is None:
            continue
        named = next(name for name in type(source).model_fields if getattr(source, name) is not None)
        if named not in _TEXT_SOURCES:
            found = f"{task.type} reads {', '.join(_TEXT_SOURCES)}, and {named} holds images"
            document.report_at(("data", split, named), f"{found}; give the texts as a CSV, or tokenised arrays", key=True)
        elif named == "csv" and task.tokenizer is None:
            way = "add `tokenizer: {factory: file.py:name}` to the task"
            document.report_at(("data", split, "csv"), f"holds texts, and nothing turns them into token ids; {way}", key=True)
