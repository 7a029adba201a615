"""The commands that look into a model file and change nothing: parsing only, as in ``accel.cli``, which takes them in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from accel import options
from accel.errors import UsageError
from accel.surroundings import cache_folder, console

app = typer.Typer()


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help=".onnx, .xml, .safetensors or a state dict", show_default=False)],
    as_json: options.AsJson = False,
) -> int:
    """Show what is in a model file: signature, operators, parameters, MACs, precision."""
    from accel.commands.inspect import run

    return run(path, json=as_json, out=console(error=False))


@app.command()
def lint(
    path: Annotated[Path | None, typer.Argument(help="an .onnx file", show_default=False)] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="tensorrt, tensorrt-rtx, onnxruntime or openvino", show_default=False)
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", help="list what is looked for, and end")] = False,
    as_json: options.AsJson = False,
) -> int:
    """Say what a target will refuse or run badly, node by node, before anything is built."""
    from accel.commands.lint import run

    return run(path, target=target, rules=rules, as_json=as_json, out=console(error=False))


@app.command()
def layers(
    path: Annotated[Path, typer.Argument(help="a TensorRT .engine, or the layers that trtexec saved", show_default=False)],
    times: Annotated[Path | None, typer.Option("--times", help="what trtexec --exportProfile saved")] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="the file the engine was built from: tells lost fusions")] = None,
    as_json: options.AsJson = False,
) -> int:
    """Say where the time of a TensorRT engine goes, in the names of the ONNX file."""
    from accel.commands.layers import run

    return run(path, times=times, onnx=onnx, as_json=as_json, out=console(error=False))


@app.command()
def explain(
    path: Annotated[
        Path, typer.Argument(help="an .onnx file, an .engine, or the layers that trtexec saved of one", show_default=False)
    ],
    against: Annotated[Path | None, typer.Option("--vs", help="the file to compare with: FP32, or another INT8")] = None,
    backend: options.Backends = None,
    device: Annotated[str, typer.Option("--device", help="cpu, gpu or npu")] = "cpu",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    batch_size: Annotated[int, typer.Option(min=1)] = 1,
    shape: Annotated[list[str] | None, typer.Option("--shape", help="AXIS=N, for axes that may vary besides the batch")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each profile; a layer's time is their median")] = 3,
    queries: Annotated[int, typer.Option(min=1, help="inferences of one turn, at most")] = 30,
    times: Annotated[Path | None, typer.Option("--times", help="for saved layers: what trtexec --exportProfile saved")] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="for an engine: the file it was built from")] = None,
    vs_times: Annotated[Path | None, typer.Option("--vs-times", help="--times of the other file")] = None,
    vs_onnx: Annotated[Path | None, typer.Option("--vs-onnx", help="--onnx of the other file")] = None,
    form: Annotated[str, typer.Option("--format", help="text, md or json")] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file to write instead of standard output")] = None,
    cache_dir: options.CacheDir = None,
    as_json: options.AsJson = False,
) -> int:
    """Say where the time of a network goes, what did not run in INT8 and why, and what conversions cost."""
    from accel.commands.axis_sizes import axis_sizes
    from accel.commands.explain import Given, run

    if against is None and (vs_times or vs_onnx):
        raise UsageError("--vs-times, --vs-onnx: they belong to the other file; name it with --vs")
    return run(
        Given(path, times, onnx),
        None if against is None else Given(against, vs_times, vs_onnx),
        backends=backend or [],
        device=device,
        threads=threads,
        batch_size=batch_size,
        sizes=axis_sizes(shape or []),
        rounds=rounds,
        queries=queries,
        cache=lambda choice: cache_folder(cache_dir, choice),
        form="json" if as_json else form,
        output=output,
        out=console(error=False),
    )


@app.command()
def diverge(
    path: Annotated[Path, typer.Argument(help="an .onnx file", show_default=False)],
    against: Annotated[
        Path | None, typer.Option("--vs", help="another .onnx, or a recipe: its torch model [default: the file itself]")
    ] = None,
    backend: Annotated[str, typer.Option("--backend", "-b", help="where it runs: onnxruntime or openvino")] = "onnxruntime",
    vs_backend: Annotated[
        str | None, typer.Option("--vs-backend", help="of --vs [default: onnxruntime without optimizations]")
    ] = None,
    inputs: Annotated[Path | None, typer.Option("--inputs", help=".npz with the inputs [default: seeded noise]")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 1,
    shape: Annotated[list[str] | None, typer.Option("--shape", help="AXIS=N, for axes that may vary besides the batch")] = None,
    below: Annotated[
        float | None, typer.Option("--below", help="dB that count as a difference [default: 40; 10 where one is quantized]")
    ] = None,
    allow_import: options.AllowImport = None,
    cache_dir: options.CacheDir = None,
    as_json: options.AsJson = False,
) -> int:
    """Find the first layer where a backend, another file or the torch model disagrees."""
    from accel.commands.axis_sizes import axis_sizes
    from accel.commands.diverge import run

    return run(
        path,
        against,
        backend=backend,
        vs_backend=vs_backend,
        inputs=inputs,
        batch_size=batch_size,
        sizes=axis_sizes(shape or []),
        below_db=below,
        allowed=allow_import or [],
        cache=lambda choice: cache_folder(cache_dir, choice),
        as_json=as_json,
        out=console(error=False),
    )
