"""The composite action and the workflow: what linters say of them, and what their steps do, run here with GitHub's files.

``accel optimize`` is a stand-in that writes a stored report and ends as it is told; ``accel report`` is the real one where its
text is looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from accel.cli import app
from accel.report import Estimate, Gate, read

ROOT = Path(__file__).parent.parent
ACTION = ROOT / "action.yml"
WORKFLOW = ROOT / ".github" / "workflows" / "accel.yml"
GUIDE = ROOT / "docs" / "ci.md"
STORED = ROOT / "tests" / "core" / "report_version_1.json"

ACCEL = """#!{python}
import os, shutil, sys
args = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    print("accel", *args, sep="\\x1f", file=calls)
if args[0] == "report" and not os.environ.get("REAL"):
    if "--output" in args:
        with open(os.path.join(args[1], "report.md"), "w") as stream:
            print("<!-- accel-report:quickstart -->", file=stream)
    sys.exit()
if args[0] == "report":
    os.execv({python!r}, [{python!r}, "-m", "accel", *args])
if args[0] == "compare":
    with open(args[args.index("--output") + 1], "w") as stream:
        print("# Compared", "x" * int(os.environ.get("COMPARE_LENGTH", "0")), file=stream)
    sys.exit(int(os.environ.get("COMPARE_CODE", "0")))
print("::error::from a layer's name")
if os.environ.get("STORED"):
    folder = os.path.join(args[args.index("--output") + 1], "quickstart")
    os.makedirs(folder)
    shutil.copy(os.environ["STORED"], os.path.join(folder, "report.json"))
sys.exit(int(os.environ["CODE"]))
"""

GH = """#!{python}
import json, os, subprocess, sys
args = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    print("gh", *args, sep="\\x1f", file=calls)
if os.environ.get("READ_ONLY") and "--method" in args:
    print("gh: Resource not accessible by integration (HTTP 403)", file=sys.stderr)
    sys.exit(1)
if "--jq" in args:
    filter = args[args.index("--jq") + 1]
    sys.exit(subprocess.run(["jq", "-r", filter], input=os.environ["COMMENTS"], text=True).returncode)
"""

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def loaded(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def tool(name: str) -> str:
    """The path of a linter that the dev extra brings; skips where it is not installed."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install accel-toolkit[dev]")
    return found


def guide_workflow() -> str:
    """The workflow that a user copies from docs/ci.md."""
    blocks: list[str] = re.findall(r"^```yaml\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if block.startswith("name:"))


@pytest.fixture
def guide_file(tmp_path: Path) -> Path:
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    (folder / "accel.yml").write_text(guide_workflow(), encoding="utf-8")
    return folder / "accel.yml"


# -- linters ------------------------------------------------------------------------------------------------------------


def checked(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_action_follows_githubs_schema() -> None:
    checked(tool("check-jsonschema"), "--builtin-schema", "vendor.github-actions", str(ACTION))


def test_the_workflows_follow_githubs_schema(guide_file: Path) -> None:
    checked(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", str(WORKFLOW), str(guide_file))


def test_zizmor_finds_nothing() -> None:
    checked(tool("zizmor"), "--offline", "--strict-collection", "--no-progress", str(ACTION), str(WORKFLOW))


def test_zizmor_finds_nothing_in_the_guide_but_its_version(guide_file: Path) -> None:
    """The guide names the action by its version, which a reader replaces; nothing else may be found."""
    text = re.sub(r"(uses: OWNER/accel)@\S+", rf"\1@{'0' * 40}", guide_workflow())
    guide_file.write_text(text, encoding="utf-8")
    checked(tool("zizmor"), "--offline", "--strict-collection", "--no-progress", str(guide_file))


def test_zizmor_would_find_an_injection(tmp_path: Path) -> None:
    broken = ACTION.read_text(encoding="utf-8").replace('"$RECIPE"', '"${{ inputs.recipe }}"')
    (tmp_path / "action.yml").write_text(broken, encoding="utf-8")
    done = subprocess.run([tool("zizmor"), "--offline", str(tmp_path / "action.yml")], capture_output=True, check=False)
    assert done.returncode != 0
    assert b"template-injection" in done.stdout


def test_no_expression_stands_in_a_script() -> None:
    assert [step["name"] for step in loaded(ACTION)["runs"]["steps"] if "${{" in step.get("run", "")] == []


def test_every_foreign_action_is_pinned_to_a_commit() -> None:
    steps = [*loaded(ACTION)["runs"]["steps"], *loaded(WORKFLOW)["jobs"]["gate"]["steps"]]
    foreign = [step["uses"] for step in steps if "uses" in step and not step["uses"].startswith("./")]
    assert foreign
    assert [name for name in foreign if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)] == []


def test_the_inputs_of_the_workflows_exist_and_are_in_the_guide() -> None:
    inputs = loaded(ACTION)["inputs"]
    guide = YAML(typ="safe").load(guide_workflow())
    for steps in (loaded(WORKFLOW)["jobs"]["gate"]["steps"], guide["jobs"]["accel"]["steps"]):
        given = [set(step.get("with", {})) for step in steps if "accel@" in step.get("uses", "") or step.get("uses") == "./"]
        assert given
        for names in given:
            assert names <= set(inputs)
            assert {name for name, about in inputs.items() if about.get("required")} <= names
    tables = GUIDE.read_text(encoding="utf-8").partition("## Other CI servers")[0]
    table = set(re.findall(r"^\| `([a-z-]+)` \|", tables, flags=re.MULTILINE))
    assert set(inputs) | set(loaded(ACTION)["outputs"]) == table


# -- the steps, really run ----------------------------------------------------------------------------------------------


@dataclass
class Job:
    """One job that uses the action: its runner's files and what its steps did."""

    folder: Path
    inputs: dict[str, str]
    event: dict[str, Any]
    environment: dict[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    log: str = ""
    used: dict[str, dict[str, str]] = field(default_factory=dict)

    def run(self) -> int:
        """Every step in order, as the runner takes them; the result of the job's step is that of the first one to fail."""
        result = 0
        for number, step in enumerate(loaded(ACTION)["runs"]["steps"]):
            name = step.get("name", step.get("uses", "")).split("@")[0]
            condition = step.get("if", "success()")
            if not re.search(r"\b(always|success|failure)\(\)", condition):
                condition = f"success() && ({condition})"
            if not self.value(condition, failed=result != 0):
                continue
            if "uses" in step:
                self.used[name] = {key: self.filled(text) for key, text in step.get("with", {}).items()}
                continue
            result = result or self.shell(step, name, number)
        return result

    def shell(self, step: dict[str, Any], name: str, number: int) -> int:
        assert step["shell"] == "bash"
        script = self.folder / f"step{number}.sh"
        script.write_text(step["run"], encoding="utf-8")
        written = self.folder / f"output{number}"
        written.touch()
        environment = {key: self.filled(text) for key, text in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],  # what `shell: bash` is
            env=self.environment | environment | {"GITHUB_OUTPUT": str(written), "GITHUB_STEP_SUMMARY": str(self.summary)},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.log += done.stdout
        self.codes[name] = done.returncode
        if "id" in step:
            self.outputs[step["id"]] = dict(line.split("=", 1) for line in written.read_text().splitlines())
        return done.returncode

    def value(self, expression: str, *, failed: bool = False) -> Any:
        """A GitHub expression of the few kinds that the action has."""

        def looked_up(match: re.Match[str]) -> str:
            first, *rest = match.group().split(".")
            if first == "inputs":
                return repr(self.inputs[rest[0]])
            if first == "steps":
                return repr(self.outputs.get(rest[0], {}).get(rest[2], ""))
            found: Any = {"event": self.event, "repository": "me/mine", "token": "secret"}
            for part in rest:
                found = (found or {}).get(part)
            return repr(found or "")

        text = re.sub(r"\b(?:inputs|steps|github)\.[\w.-]+", looked_up, expression.replace("&&", " and "))
        text = text.replace("always()", "True").replace("success()", repr(not failed))
        return eval(text, {"__builtins__": {}})

    def filled(self, text: str) -> str:
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: str(self.value(found.group(1).strip())), text)

    @property
    def summary(self) -> Path:
        return self.folder / "summary.md"

    def calls(self, program: str) -> list[list[str]]:
        lines = Path(self.environment["CALLS"]).read_text().splitlines()
        return [line.split("\x1f")[1:] for line in lines if line.startswith(f"{program}\x1f")]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A pull request of this repository whose run passes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("accel", ACCEL), ("gh", GH), ("python", '#!/bin/sh\nprintf \'python\\037%s\\n\' "$*" >> "$CALLS"\n')):
        (programs / name).write_text(text.replace("{python!r}", repr(sys.executable)).replace("{python}", sys.executable))
        (programs / name).chmod(0o755)
    (tmp_path / "temp").mkdir()
    (tmp_path / "calls").touch()
    inputs = {name: about.get("default", "") for name, about in loaded(ACTION)["inputs"].items()}
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(str(ROOT / root) for root in ("core", "compress", "accelerate", "benchmarks")),
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "GITHUB_ACTION_PATH": str(ROOT),
        "CALLS": str(tmp_path / "calls"),
        "CODE": "0",
        "COMMENTS": "[]",
        "STORED": str(STORED),
        "HOME": str(tmp_path),
    }
    event = {"pull_request": {"number": 7}}
    return Job(tmp_path, inputs | {"recipe": "models/recipe.yaml", "token": "secret"}, event, environment)


def failing(job: Job) -> None:
    """From here on the run's report has a gate that failed."""
    gate = Gate.model_validate(
        {
            "name": "top1 ort",
            "metric": "top1",
            "kind": "accuracy",
            "limit": "at most 1 point worse",
            "found": Estimate(value=-3.2, low=-4.0, high=-2.4),
            "verdict": "fail",
            "failed": True,
            "text": "top-1 fell by 3.2 points\n::error::pwned",
            "line": 7,
            "column": 3,
        }
    )
    report = read(STORED).model_copy(update={"gates": [gate], "recipe": "models/recipe.yaml"})
    place = job.folder / "stored.json"
    place.write_text(report.json_text(), encoding="utf-8")
    job.environment |= {"STORED": str(place), "CODE": "11"}


@needs_bash
def test_a_run_that_passes(job: Job) -> None:
    assert job.run() == 0
    ((_, recipe, *options),) = [call for call in job.calls("accel") if call[0] == "optimize"]
    assert (recipe, options[0]) == ("models/recipe.yaml", "--output")
    folder = Path(job.outputs["run"]["folder"])
    assert job.used["Keep the output folder"] == {"name": "accel-report", "path": str(folder)}
    assert job.used["actions/setup-python"] == {"python-version": "3.11"}


@needs_bash
def test_a_gate_that_fails_is_shown_everywhere_before_the_job_fails(job: Job) -> None:
    failing(job)
    job.environment["REAL"] = "1"
    assert job.run() == 11
    assert [name for name, found in job.codes.items() if found] == ["Result"]
    folder = Path(job.outputs["run"]["folder"])
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md", "report.html", "junit.xml"}
    assert job.summary.read_text(encoding="utf-8") == (folder / "report.md").read_text(encoding="utf-8")
    assert job.summary.read_text(encoding="utf-8").startswith("**FAIL 1 of 1 gates (top1 ort): ")
    assert re.search(r"^::notice title=quickstart%3A FAIL 1 of 1 gates \(top1 ort\)::", job.log, re.MULTILINE)
    errors = re.findall(r"^::error (.*)$", job.log, re.MULTILINE)
    assert errors == [
        "file=models/recipe.yaml,line=7,col=3,title=gate top1 ort fails::top-1 fell by 3.2 points : :error: :pwned"
    ]
    assert [call for call in job.calls("gh") if "POST" in call]
    assert "Keep the output folder" in job.used


@needs_bash
@pytest.mark.parametrize("code", ["1", "11", "12", "13", "14"])
def test_the_job_ends_as_accel_does(job: Job, code: str) -> None:
    job.environment["CODE"] = code
    assert job.run() == int(code)
    assert [name for name, found in job.codes.items() if found] == ["Result"]
    assert list(job.codes)[-3:] == ["Publish the report", "Comment on the pull request", "Result"]
    assert "Keep the output folder" in job.used


@needs_bash
def test_what_the_run_prints_is_not_obeyed(job: Job) -> None:
    job.run()
    stopped = re.search(r"^::stop-commands::([0-9a-f]{32})\n(.*?)^::\1::$", job.log, re.MULTILINE | re.DOTALL)
    assert stopped
    assert stopped.group(2) == "::error::from a layer's name\n"


@needs_bash
@pytest.mark.parametrize("code", ["2", "3", "4", "5", "70"])
def test_a_run_without_a_report_says_so_and_ends_with_its_code(job: Job, code: str) -> None:
    job.environment |= {"STORED": "", "CODE": code}
    assert job.run() == int(code)
    assert f"::error title=accel::ended with exit code {code}" in job.log
    assert f"exit code {code}" in job.summary.read_text(encoding="utf-8")
    assert job.used.keys() == {"actions/setup-python"}
    assert job.calls("gh") == []


EVIL = 'recipes/a b.yaml\'; echo "pwned" > pwned; $(touch pwned) `touch pwned` ${{ github.token }}'


@needs_bash
def test_inputs_are_never_run(job: Job) -> None:
    job.inputs |= {"recipe": EVIL, "args": "--x $(touch${IFS}pwned) `touch` *", "extras": "cpu;touch pwned", "fail-on": EVIL}
    job.inputs["baseline"] = EVIL
    assert job.run() == 0
    assert not (job.folder / "pwned").exists()
    called = {call[0]: call for call in job.calls("accel")}
    assert called["optimize"][1] == EVIL
    assert called["optimize"][2:6] == ["--x", "$(touch${IFS}pwned)", "`touch`", "*"]
    assert called["compare"][1] == EVIL
    assert called["compare"][3:5] == ["--fail-on", EVIL]


@needs_bash
def test_quotes_group_arguments(job: Job) -> None:
    job.inputs["args"] = "--allow-import nets \"data.validation.num_samples=10\"\n'name=a b'"
    job.run()
    (call,) = [call for call in job.calls("accel") if call[0] == "optimize"]
    assert call[2:6] == ["--allow-import", "nets", "data.validation.num_samples=10", "name=a b"]


@needs_bash
def test_a_quote_without_its_partner_is_a_usage_error(job: Job) -> None:
    job.inputs["args"] = "--allow-import 'nets"
    assert job.run() == 2
    assert "a quote has no partner" in job.log
    assert job.calls("accel") == []


@needs_bash
@pytest.mark.parametrize(("run", "compare", "result"), [("0", "12", 12), ("11", "12", 11), ("0", "0", 0), ("0", "2", 2)])
def test_the_comparison_with_a_baseline_counts_too(job: Job, run: str, compare: str, result: int) -> None:
    job.environment |= {"CODE": run, "COMPARE_CODE": compare}
    job.inputs |= {"baseline": "main/report.json", "fail-on": "latency_p50>+5%\n\ntop1<-1\n"}
    assert job.run() == result
    (call,) = [call for call in job.calls("accel") if call[0] == "compare"]
    assert call[1] == "main/report.json"
    assert call[3:7] == ["--fail-on", "latency_p50>+5%", "--fail-on", "top1<-1"]
    assert "--across-machines" not in call
    assert ("the comparison with the baseline ended with exit code" in job.log) == (compare != "0")
    assert "# Compared" in job.summary.read_text(encoding="utf-8")
    assert list(job.codes)[-3:] == ["Publish the report", "Comment on the pull request", "Result"]


@needs_bash
@pytest.mark.parametrize(("length", "shown"), [("0", True), ("66000", False)])
def test_the_comment_has_the_comparison_where_there_is_room(job: Job, length: str, shown: bool) -> None:
    job.environment["COMPARE_LENGTH"] = length
    job.inputs |= {"baseline": "main/report.json", "across-machines": "true"}
    job.run()
    (call,) = [call for call in job.calls("gh") if "POST" in call]
    body = Path(call[-1].removeprefix("body=@")).read_text(encoding="utf-8")
    assert body.startswith("<!-- accel-report:quickstart -->")
    assert ("# Compared" in body) == shown
    assert "--across-machines" in next(call for call in job.calls("accel") if call[0] == "compare")


def test_the_action_calls_accel_as_it_is() -> None:
    """Every command and option in the scripts exists."""
    for name, options in {
        "optimize": {"--output"},
        "compare": {"--fail-on", "--across-machines", "--format", "--output"},
        "report": {"--format", "--summary", "--output"},
    }.items():
        command = cast("Any", get_command(app)).commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        script = "\n".join(step.get("run", "") for step in loaded(ACTION)["runs"]["steps"])
        assert f"accel {name} " in script
        assert options <= known, name
        assert all(option in script for option in options)


@needs_bash
def test_what_is_installed(job: Job) -> None:
    job.inputs["extras"] = "cpu,vision"
    job.run()
    ((line,),) = job.calls("python")
    assert line.endswith(f"-c {ROOT}/constraints.txt accel-toolkit[cpu,vision] @ file://{ROOT}")
    job.inputs["install"] = "'accel-toolkit[cpu] == 0.1.0' --no-index"
    job.run()
    assert job.calls("python")[1][0].endswith("accel-toolkit[cpu] == 0.1.0 --no-index")
    job.inputs["install"] = "none"
    job.run()
    assert len(job.calls("python")) == 2


COMMENTS = [
    {"id": 1, "user": {"type": "User"}, "body": "look: <!-- accel-report:quickstart -->"},
    {"id": 2, "user": {"type": "Bot"}, "body": "another <!-- accel-report:other -->"},
    {"id": 3, "user": {"type": "Bot"}, "body": "**old**\n\n<!-- accel-report:quickstart -->"},
]


@needs_bash
@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq, which stands in for gh's own filter")
@pytest.mark.parametrize(("there", "method", "place"), [(3, "PATCH", "comments/3"), (2, "POST", "issues/7/comments")])
def test_one_comment_is_kept_up_to_date(job: Job, there: int, method: str, place: str) -> None:
    job.environment["COMMENTS"] = json.dumps(COMMENTS[:there])
    assert job.run() == 0
    (call,) = [call for call in job.calls("gh") if "--method" in call]
    assert call[call.index("--method") + 1] == method
    assert call[call.index("--method") + 2].endswith(place)
    assert call[-2:] == ["-F", f"body=@{job.outputs['run']['folder']}/report.md"]


@needs_bash
def test_a_fork_gets_summary_and_artifact_and_no_failure(job: Job) -> None:
    failing(job)
    job.environment["READ_ONLY"] = "1"
    assert job.run() == 11
    assert job.codes["Comment on the pull request"] == 0
    assert "::notice title=accel::no comment on the pull request (the token may not write" in job.log
    assert any("--summary" in call for call in job.calls("accel"))
    assert "Keep the output folder" in job.used


@needs_bash
def test_no_comment_without_a_pull_request_or_where_it_is_not_wanted(job: Job) -> None:
    job.event = {}
    job.run()
    job.used.clear()
    job.event, job.inputs["comment"], job.inputs["artifact"] = {"pull_request": {"number": 7}}, "false", ""
    job.run()
    assert job.calls("gh") == []
    assert "Keep the output folder" not in job.used
