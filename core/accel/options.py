"""What the options are called that more than one command has, or that need a line of their own to explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[Path, typer.Argument(help="recipe.yaml", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value: overrides of the recipe", show_default=False)]
CacheDir = Annotated[Path | None, typer.Option("--cache-dir", help="the store of finished steps [default: your cache folder]")]
OutputDir = Annotated[Path | None, typer.Option("--output", "-o", help="where a folder named like the recipe is made")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on standard output")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
AllowImport = Annotated[
    list[str] | None, typer.Option("--allow-import", help="a package that the recipe may import, besides its own folder")
]
FailOn = Annotated[
    list[str] | None, typer.Option("--fail-on", help="fail where 'latency_p50>+5%', 'top1<-1pt', 'speedup<2', ...@target")
]
Gates = Annotated[list[str] | None, typer.Option("--gate", help="a limit besides the recipe's, such as 'latency_p50>+5%'")]
KeepFailed = Annotated[bool, typer.Option("--keep-failed", help="publish files whose accuracy gate failed")]
AcrossMachines = Annotated[
    bool, typer.Option("--across-machines", help="compare ratios of latencies that different machines measured")
]
OnRemoved = Annotated[str, typer.Option("--on-removed", help="warn or fail, where a row of base is gone")]
ReportForm = Annotated[
    str,
    typer.Option(
        "--format",
        help="md, html, junit, json, github-action-benchmark, bencher, brief (one table), table, or github (annotations)",
    ),
]
ReportOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="file, or folder, to write instead of standard output")
]
Backends = Annotated[list[str] | None, typer.Option("--backend", "-b", help="onnxruntime, openvino [default: all here]")]
ModelData = Annotated[Path | None, typer.Option("--data", help=".npz, image folder, .csv or .tar to calibrate and judge on")]
Pinning = Annotated[
    bool,
    typer.Option("--pin/--no-pin", help="keep all rows on the same cores, as many as there are threads, while they are timed"),
]
NewTargets = Annotated[
    list[str] | None, typer.Option("--target", help="backend or backend/device [default: onnxruntime and openvino]")
]
Summary = Annotated[
    Path | None, typer.Option("--summary", help="with github: file that the Markdown is added to, $GITHUB_STEP_SUMMARY")
]
