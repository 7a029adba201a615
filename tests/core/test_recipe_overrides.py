"""``key.path=value`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.errors import RecipeError
from accel.recipe.reader import read
from accel.recipe.settings import Recipe

TEXT = """\
version: 1
x-data: &data {arrays: d.npz}
model: {path: m.onnx}
task: {type: image_classification}
data:
  calibration: *data
  validation: *data
passes:
  - type: simplify
  - type: quantize
    subset_size: 10
targets:
  - {backend: onnxruntime}
  - {backend: openvino, options: {num_streams: 1}}
"""


def recipe(folder: Path, *overrides: str) -> Recipe:
    for name in ("m.onnx", "d.npz"):
        (folder / name).touch()
    path = folder / "recipe.yaml"
    path.write_text(TEXT)
    return read(path, overrides)


def test_an_override_replaces_adds_and_reaches_into_lists(tmp_path: Path) -> None:
    found = recipe(
        tmp_path,
        "seed=7",
        "benchmark.warmup=20",
        "passes.1.calibration.method=percentile",
        "targets.1.options.num_streams=2",
        "targets.0.name=first",
        "about={version: '2.0', author: me}",
        "report.formats=[json]",
    )
    assert found.seed == 7
    assert found.benchmark.warmup == 20
    assert found.passes[1].settings["calibration"] == {"method": "percentile", "percentile": 99.99, "num_samples": 10}
    assert found.targets[1].options == {"num_streams": 2}
    assert found.targets[0].name == "first"
    assert (found.about.version, found.about.author) == ("2.0", "me")
    assert found.report.formats == ("json",)


def test_the_last_override_of_a_key_counts(tmp_path: Path) -> None:
    assert recipe(tmp_path, "seed=1", "seed=2").seed == 2


def test_an_override_may_name_the_key_that_an_alias_stands_for(tmp_path: Path) -> None:
    assert recipe(tmp_path, "passes.1.calibration.num_samples=5").passes[1].settings["calibration"]["num_samples"] == 5


def test_an_override_may_use_an_alias(tmp_path: Path) -> None:
    assert recipe(tmp_path, "passes.1.calibration.method=kl").passes[1].settings["calibration"]["method"] == "entropy"


def test_an_override_inside_an_anchor_changes_that_place_only(tmp_path: Path) -> None:
    found = recipe(tmp_path, "data.calibration.num_samples=3")
    assert found.data.calibration is not None
    assert found.data.validation is not None
    assert (found.data.calibration.num_samples, found.data.validation.num_samples) == (3, None)


def test_nothing_after_the_equals_sign_takes_an_optional_key_away(tmp_path: Path) -> None:
    assert recipe(tmp_path, "data.validation=").data.validation is None


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sed=1", "sed: unknown key 'sed'; did you mean 'seed'?"),
        ("tragets.0.device=cpu", "unknown key 'tragets'; did you mean 'targets'?"),
        ("targets.0.bakend=openvino", "unknown key 'bakend'; did you mean 'backend'?"),
        ("passes.1.calibration.metod=minmax", "unknown key 'metod'; did you mean 'method'?"),
        ("benchmark.warm_up=3", "did you mean 'warmup'?"),
        ("targets.2.device=cpu", "'2' is not an index of it (0 to 1)"),
        ("targets.-1.device=cpu", "'-1' is not an index"),
        ("targets.first.device=cpu", "'first' is not an index"),
        ("model.path.name=x", "model.path is 'm.onnx', which has nothing inside"),
        ("seed=one", "seed: found 'one', allowed: a whole number"),
        ("seed=-1", "must be greater than or equal to 0"),
        ("targets=3", "targets: found 3, allowed: a list"),
        ("targets.0.device=tpu", "allowed: cpu, gpu, npu"),
        ("passes.1.calibration.method=entropie", "did you mean 'entropy'?"),
        ("data.validation.arrays=[", "not YAML"),
        ("seed=1\n---\n2", "a second document"),
        ("seed", "write key.path=value"),
        ("=3", "write key.path=value"),
        ("a..b=3", "write key.path=value"),
        ("seed=\0", "NUL"),
        ("seed=" + "[" * 19_000, "too many brackets"),
        ("seed=" + "[" * 100, "nested more than 64 deep"),
        ("seed=" + "1" * 30_000, "too long"),
    ],
)
def test_an_override_that_cannot_be_meant_is_named(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, override)
    assert caught.value.exit_code == 2
    assert len(caught.value.problems) == 1
    assert says in str(caught.value)
    assert "override " in str(caught.value)
    assert override.partition("=")[0].encode("unicode_escape").decode() in str(caught.value)


def test_all_wrong_overrides_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, "sed=1", "seed=x", "targets.9.device=cpu", "nonsense")
    assert len(caught.value.problems) == 4


def test_a_path_from_the_command_line_is_relative_to_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    home = tmp_path / "home"
    for folder in (elsewhere, home):
        folder.mkdir()
    (tmp_path / "other.npz").touch()
    monkeypatch.chdir(elsewhere)
    found = recipe(home, "data.validation.arrays=../other.npz", "output_dir=results", "data.calibration={arrays: ../other.npz}")
    assert found.data.validation is not None
    assert found.data.calibration is not None
    assert found.data.validation.arrays == str(tmp_path / "other.npz")
    assert found.data.calibration.arrays == str(tmp_path / "other.npz")
    assert found.output_dir == str(elsewhere / "results")
    assert f"data.validation.arrays is absolute: {tmp_path / 'other.npz'}" in found.notes


def test_a_tag_in_an_override_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"override 'seed=!!python/name:os.system': the tag .* is not taken"):
        recipe(tmp_path, "seed=!!python/name:os.system")
