"""Faults 16 and 17 of the fault list, one case for each item; fault 18's ``check`` imports nothing."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from accel.errors import AccelError, DataFault, ModelFault, SafetyRefusal, UsageError
from accel.imports import ImportPolicy, check, configured_imports, load, running


@pytest.fixture
def policy(tmp_path: Path) -> ImportPolicy:
    folder = tmp_path / "recipe"
    folder.mkdir()
    return ImportPolicy(folder)


def write(policy: ImportPolicy, name: str, text: str) -> Path:
    path = policy.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


CANARY = "from pathlib import Path\nPath(__file__).with_name('canary').touch()\ndef build(): return 1\n"


def test_check_imports_nothing(policy: ImportPolicy) -> None:
    write(policy, "model.py", CANARY)
    check("model.py:build", policy)
    assert not (policy.folder / "canary").exists()
    assert load("model.py:build", policy)() == 1
    assert (policy.folder / "canary").exists()


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("model.py", UsageError),
        ("model.py:", UsageError),
        (":build", UsageError),
        ("model.py:1x", UsageError),
        ("model.py:lambda", UsageError),
        ("absent.py:build", UsageError),
        ("sub/model:build", UsageError),
        ("model\0.py:build", UsageError),
        ("a b:c", UsageError),
        ("model.py:build.__globals__", SafetyRefusal),
        ("model.py:a.b", SafetyRefusal),
        ("model.py:__import__", SafetyRefusal),
        ("a:b.c.__globals__", SafetyRefusal),
        ("../outside.py:build", SafetyRefusal),
        ("/etc/hosts.py:build", SafetyRefusal),
        ("link.py:build", SafetyRefusal),
        ("linked/outside.py:build", SafetyRefusal),
        ("os:system", SafetyRefusal),
        ("subprocess:run", SafetyRefusal),
        ("builtins:exec", SafetyRefusal),
        ("torchvision.models:resnet18", SafetyRefusal),
    ],
)
def test_refused_by_name_alone(policy: ImportPolicy, reference: str, error: type[AccelError]) -> None:
    write(policy, "model.py", CANARY)
    outside = policy.folder.parent / "outside.py"
    outside.write_text(CANARY)
    (policy.folder / "link.py").symlink_to(outside)
    (policy.folder / "linked").symlink_to(policy.folder.parent)
    for use in (check, load):
        with pytest.raises(error):
            use(reference, policy)
    assert not list(policy.folder.parent.rglob("canary"))


def test_a_package_that_is_not_allowed_is_not_imported(policy: ImportPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with pytest.raises(SafetyRefusal, match=r"--allow-import this"):
        load("this:s", policy)
    assert "this" not in sys.modules


def test_an_allowed_package_loads_and_a_name_like_it_does_not(policy: ImportPolicy) -> None:
    allowed = ImportPolicy(policy.folder, ("json",))
    assert load("json.decoder:JSONDecoder", allowed)().decode("1") == 1
    with pytest.raises(SafetyRefusal):
        check("jsonschema:validate", allowed)


def test_an_allowed_package_does_not_lend_what_it_imports(
    policy: ImportPolicy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lender.py").write_text("from os import system\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SafetyRefusal, match="posix"):
        load("lender:system", ImportPolicy(policy.folder, ("lender",)))


def test_missing_module(policy: ImportPolicy) -> None:
    with pytest.raises(UsageError, match="no_such_package"):
        load("no_such_package.models:build", ImportPolicy(policy.folder, ("no_such_package",)))


def test_missing_attribute_names_what_is_there(policy: ImportPolicy) -> None:
    write(policy, "model.py", "def make_net(): ...\n")
    with pytest.raises(UsageError, match="it has make_net"):
        load("model.py:build", policy)


def test_not_callable(policy: ImportPolicy) -> None:
    write(policy, "model.py", "build = 3\n")
    with pytest.raises(UsageError, match="is a int"):
        load("model.py:build", policy)


def test_raises_at_import_shows_user_frames_only(policy: ImportPolicy) -> None:
    write(policy, "model.py", "import json\ndef read(): return json.loads('{')\nread()\n")
    with pytest.raises(ModelFault) as caught:
        load("model.py:read", policy)
    text = str(caught.value)
    assert text.count('File "') == 2
    assert "model.py" in text
    assert "JSONDecodeError" in text
    assert "decoder.py" not in text
    assert "imports.py" not in text


def test_syntax_error_points_at_the_line(policy: ImportPolicy) -> None:
    write(policy, "model.py", "def build(:\n    pass\n")
    with pytest.raises(ModelFault, match="line 1"):
        load("model.py:build", policy)


def test_a_library_the_file_needs_is_missing(policy: ImportPolicy) -> None:
    write(policy, "model.py", "import no_such_library\n")
    with pytest.raises(ModelFault, match="no_such_library"):
        load("model.py:build", policy)


def test_sys_exit_at_import(policy: ImportPolicy) -> None:
    write(policy, "model.py", "import sys\nsys.exit(0)\n")
    with pytest.raises(ModelFault, match=r"sys\.exit\(0\)"):
        load("model.py:build", policy)


def test_sys_exit_and_exceptions_in_a_call(policy: ImportPolicy) -> None:
    write(policy, "model.py", "import sys\ndef leave(): sys.exit('bye')\ndef fail(): raise KeyError('x')\n")
    with pytest.raises(ModelFault, match="bye"), running("model.py:leave", policy):
        load("model.py:leave", policy)()
    with pytest.raises(DataFault, match="KeyError"), running("model.py:fail", policy, DataFault):
        load("model.py:fail", policy)()
    with pytest.raises(KeyboardInterrupt), running("x", policy):
        raise KeyboardInterrupt


def test_own_imports_are_free_also_inside_functions(policy: ImportPolicy) -> None:
    write(policy, "accel_test_nets.py", "WIDTH = 4\n")
    write(policy, "accel_test_later.py", "WIDTH = 5\n")
    write(policy, "accel_test_pack/__init__.py", "")
    write(policy, "accel_test_pack/deep.py", "WIDTH = 6\n")
    write(
        policy,
        "model.py",
        "import accel_test_nets\nfrom accel_test_pack import deep\n"
        "def build():\n    import accel_test_later\n    return accel_test_nets.WIDTH, accel_test_later.WIDTH, deep.WIDTH\n",
    )
    others = str(policy.folder.parent.parent)  # where the other tests' recipes lie
    before = [place for place in sys.path if not place.startswith(others)]
    build = load("model.py:build", policy)
    assert not list(policy.folder.rglob("__pycache__"))
    assert build() == (4, 5, 6)
    assert [place for place in sys.path if not place.startswith(others)] == before
    assert sys.path[-1] == str(policy.folder)


def test_two_folders_with_a_file_of_one_name(tmp_path: Path) -> None:
    policies = [ImportPolicy(tmp_path / name) for name in ("a", "b")]
    for width, each in enumerate(policies):
        each.folder.mkdir()
        write(each, "accel_test_twin.py", f"WIDTH = {width}\n")
        write(each, "model.py", "from accel_test_twin import WIDTH\ndef build(): return WIDTH\n")
    assert [load("model.py:build", each)() for each in policies] == [0, 1]
    assert str(policies[0].folder) not in sys.path


def test_libraries_below_the_folder_are_not_its_files(
    policy: ImportPolicy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = "venv/lib/site-packages/accel_test_library"
    write(policy, f"{library}/__init__.py", "def fail(): raise ValueError")
    monkeypatch.syspath_prepend(str((policy.folder / library).parent))
    write(policy, "model.py", "import accel_test_library\ndef build(): accel_test_library.fail()\n")
    build = load("model.py:build", policy)
    with pytest.raises(ModelFault) as caught, running("model.py:build", policy):
        build()
    assert "site-packages" not in str(caught.value)
    other = ImportPolicy(tmp_path / "other")
    write(other, "model.py", "def build(): ...\n")
    load("model.py:build", other)
    assert "accel_test_library" in sys.modules


def test_one_module_for_two_names_and_a_new_one_after_an_edit(policy: ImportPolicy) -> None:
    write(policy, "model.py", "class A: ...\nclass B(A): ...\n")
    first, second = load("model.py:A", policy), load("model.py:B", policy)
    assert isinstance(first, type)
    assert isinstance(second, type)
    assert issubclass(second, first)
    write(policy, "model.py", "class A: edited = True\n")
    assert load("model.py:A", policy).edited  # type: ignore[attr-defined]


def test_a_failed_import_leaves_nothing_behind(policy: ImportPolicy) -> None:
    write(policy, "accel_test_half.py", "")
    write(policy, "model.py", "import accel_test_half\nraise ValueError\n")
    modules = set(sys.modules)
    with pytest.raises(ModelFault):
        load("model.py:build", policy)
    assert str(policy.folder) not in sys.path
    assert not {name for name in set(sys.modules) - modules if "accel_test" in name or "accel.user_files." in name}


FRESH = "import pickle, sys; sys.path.append(sys.argv[1]); print(pickle.load(sys.stdin.buffer)())"


def test_a_process_that_is_started_afresh_finds_what_it_is_sent(policy: ImportPolicy) -> None:
    """As multiprocessing sends objects to processes that it spawns: by names, with the path of their parent."""
    write(policy, "accel_test_beside.py", "word = 'found'")
    file = write(policy, "net.py", "from accel_test_beside import word\n\ndef build():\n    return word\n")
    sent = pickle.dumps(load("net.py:build", policy))
    command = [sys.executable, "-c", FRESH, str(policy.folder)]
    assert subprocess.run(command, input=sent, capture_output=True, check=True).stdout.split() == [b"found"]
    assert not list(policy.folder.rglob("*.pyc"))
    file.write_text("def build():\n    return 'another'\n")
    done = subprocess.run(command, input=sent, capture_output=True, check=False)
    assert b"net.py was changed since it was loaded" in done.stderr


def test_configured_imports_of_the_nearest_pyproject(tmp_path: Path) -> None:
    inner = tmp_path / "recipes" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.accel]\nallow_imports = ["timm", "my.nets"]\n')
    assert configured_imports(inner) == ("timm", "my.nets")
    (tmp_path / "recipes" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert configured_imports(inner) == ()


@pytest.mark.parametrize(
    "text", ["[tool.accel\n", "[tool.accel]\nallow_imports = 'os'\n", "[tool.accel]\nallow_imports = ['a b']\n"]
)
def test_a_bad_pyproject_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match="pyproject"):
        configured_imports(tmp_path)
