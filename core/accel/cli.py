"""The command line: parses, chooses colours, turns errors into exit codes. Every command lives in accel.commands."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from accel import looking, options
from accel.atomic import storage_fault
from accel.benchmarks.untrusted import lines
from accel.errors import AccelError, StorageFault
from accel.surroundings import cache_folder, console

app = typer.Typer(
    name="accel",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a trained PyTorch or ONNX model into the smallest, fastest artefact that keeps its accuracy, and prove it.",
)


class Stopped(BaseException):
    """A signal: raised where the program is, so that children end and temporary files go. ``exit_code``: 128 + the signal.

    Ctrl-C too: typer turns a KeyboardInterrupt into a silent exit.
    """

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version and end")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"accel {installed('accel-toolkit')}")
        raise typer.Exit


@app.command()
def optimize(
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml, or an .onnx file with --data and --target", show_default=False)],
    overrides: options.Overrides = None,
    data: Annotated[Path | None, typer.Option("--data", help="for an .onnx: .npz, image folder, .csv or .tar")] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="for an .onnx: onnxruntime, openvino, openvino/npu")
    ] = None,
    output: options.OutputDir = None,
    cache_dir: options.CacheDir = None,
    allow_import: options.AllowImport = None,
    benchmark: Annotated[bool, typer.Option("--benchmark/--no-benchmark", help="measure, or only build")] = True,
    gate: options.Gates = None,
    keep_failed: options.KeepFailed = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Run a recipe: passes, artefacts for every target, measurements, report."""
    from accel.commands.optimize import run

    return run(
        recipe,
        overrides or [],
        data=data,
        targets=target or [],
        output=output,
        cache=lambda choice: cache_folder(cache_dir, choice),
        allowed=allow_import or [],
        benchmark=benchmark,
        gates=gate or [],
        keep_failed=keep_failed,
        as_json=as_json,
        quiet=quiet,
        out=console(error=False),
        err=console(error=True),
    )


@app.command()
def validate(recipe: options.RecipeArgument, overrides: options.Overrides = None, as_json: options.AsJson = False) -> int:
    """Check a recipe: every problem at once, with line and column. Imports none of its code."""
    from accel.commands.validate import run

    return run(recipe, overrides or [], out=console(error=False), as_json=as_json)


@app.command()
def plan(
    recipe: options.RecipeArgument,
    overrides: options.Overrides = None,
    output: options.OutputDir = None,
    cache_dir: options.CacheDir = None,
    allow_import: options.AllowImport = None,
    as_json: options.AsJson = False,
) -> int:
    """Show the steps, which of them are stored already, and what each target will get. Runs nothing."""
    from accel.commands.plan import run

    return run(
        recipe,
        overrides or [],
        output=output,
        cache=lambda choice: cache_folder(cache_dir, choice),
        allowed=allow_import or [],
        as_json=as_json,
        out=console(error=False),
    )


@app.command()
def benchmark(
    path: Annotated[Path, typer.Argument(help="an .onnx or .xml file, or the output folder of a run", show_default=False)],
    backend: options.Backends = None,
    against: Annotated[list[Path] | None, typer.Option("--vs", help="another file to measure in turn with the first")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, gpu or npu")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="[default: of the run, else 1]", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="[default: of the run, else 1]", show_default=False)] = None,
    shape: Annotated[list[str] | None, typer.Option("--shape", help="AXIS=N, for axes that may vary besides the batch")] = None,
    duration: Annotated[float, typer.Option(min=0.1, help="seconds timed for each row, at least")] = 3.0,
    max_duration: Annotated[float, typer.Option(min=0.1, help="seconds for each row after which none is added")] = 10.0,
    pinning: options.Pinning = True,
    fail_on: options.FailOn = None,
    cache_dir: options.CacheDir = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Measure model files, or a finished run again, in interleaved turns."""
    from accel.commands.benchmark import run

    return run(
        path,
        backends=backend or [],
        device=device,
        against=against or [],
        threads=threads,
        batch_size=batch_size,
        shapes=shape or [],
        duration_s=duration,
        max_duration_s=max_duration,
        pinning=pinning,
        fail_on=fail_on or [],
        cache=lambda choice: cache_folder(cache_dir, choice),
        as_json=as_json,
        quiet=quiet,
        out=console(error=False),
        err=console(error=True),
    )


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="report.json, or the output folder of a run", show_default=False)],
    form: options.ReportForm = "md",
    output: options.ReportOutput = None,
    summary: options.Summary = None,
) -> int:
    """Render a report again, without measuring."""
    from accel.commands.report import run

    return run(path, form=form, output=output, out=console(error=False), summary_file=summary)


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="report.json, or the output folder, before", show_default=False)],
    head: Annotated[Path, typer.Argument(help="report.json, or the output folder, after", show_default=False)],
    fail_on: options.FailOn = None,
    across_machines: options.AcrossMachines = False,
    on_removed: options.OnRemoved = "warn",
    form: Annotated[str, typer.Option("--format", help="table, md or json")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file to write instead of standard output")] = None,
) -> int:
    """Show what changed between two reports, and whether it is significant. Measures nothing."""
    from accel.commands.compare import run

    return run(
        base,
        head,
        fail_on=fail_on or [],
        across_machines=across_machines,
        on_removed=on_removed,
        form=form,
        output=output,
        out=console(error=False),
    )


app.registered_commands.extend(looking.app.registered_commands)


@app.command()
def init(
    model: Annotated[str, typer.Argument(help="an .onnx file, or file.py:factory", show_default=False)],
    data: options.ModelData = None,
    target: options.NewTargets = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="recipe to write")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
) -> int:
    """Write a commented recipe for a model."""
    from accel.commands.init import run

    return run(model, output, force=force, out=console(error=False), data=data, targets=target or [])


@app.command()
def doctor(cache_dir: options.CacheDir = None, as_json: options.AsJson = False) -> int:
    """Say for each backend its version and devices, or what is missing."""
    from accel.commands.doctor import run

    return run(json=as_json, cache_folder=cache_folder(cache_dir), out=console(error=False))


@app.command("list")
def list_(as_json: options.AsJson = False) -> int:
    """List passes, backends and tasks."""
    from accel.commands.catalogue import run

    return run(json=as_json, out=console(error=False))


@app.command()
def schema(
    of: Annotated[str, typer.Argument(help="recipe, report or manifest")] = "recipe",
) -> int:
    """Print the JSON schema of recipes (for editors), reports or manifests."""
    from accel.commands.schema import run

    return run(of, out=console(error=False))


@app.command()
def cache(
    action: Annotated[str, typer.Argument(help="path, list, verify, shrink or clear")] = "list",
    limit_gib: Annotated[float, typer.Option("--limit-gib", min=0.0, help="for shrink: what may stay")] = 10.0,
    cache_dir: options.CacheDir = None,
    as_json: options.AsJson = False,
) -> int:
    """Look after the store of finished steps."""
    from accel.commands.cache import run

    return run(
        action, folder=cache_folder(cache_dir), limit_bytes=int(limit_gib * 2**30), as_json=as_json, out=console(error=False)
    )


def _on_signal(number: int, frame: object) -> NoReturn:
    raise Stopped(number)


def main() -> NoReturn:
    """Entry of the ``accel`` command; ends the process with the documented exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    _require_streams()
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away (``| head``): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def _require_streams() -> None:
    """Where the caller closed a standard stream (``>&-``), what goes there is lost, and no other file gets its number."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _run() -> int:
    try:
        result = app(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except AccelError as error:
        _say(str(error))
        if "--json" in sys.argv[1:]:
            sys.stdout.write(_json_error(error))
        return error.exit_code
    except Stopped as stop:
        _say(f"stopped by {stop}; the next run goes on after the last finished step")
        return stop.exit_code
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # typer's own answer to it would be exit code 1
            raise leaving.__context__ from None
        raise
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        fault = storage_fault(error, error.filename or "system")
        _say(str(fault or f"{error.filename or 'system'}: {error.strerror or error}"))
        return StorageFault.exit_code
    except Exception as error:  # noqa: BLE001  the boundary: what is left is our bug, or a usage error of the parser
        return _unexpected(error)


def _json_error(error: AccelError) -> str:
    """What ``--json`` prints instead of a result."""
    import json

    found = {"error": {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}}
    return json.dumps(found, indent=2) + "\n"


def _unexpected(error: Exception) -> int:
    show = getattr(error, "show", None)
    if show is not None:  # typer's own usage errors
        show()
        return int(getattr(error, "exit_code", 2))
    traceback.print_exc()
    _say(f"this is a bug in accel ({type(error).__name__}); please report it with the lines above")
    return 70


def _say(text: str) -> None:
    with suppress(OSError):  # nobody is left to tell; the exit code still does
        sys.stderr.write(lines(f"accel: {text}\n"))


if __name__ == "__main__":
    main()
