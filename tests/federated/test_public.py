"""Every public name of `federated` is documented."""

import pathlib
import re
import subprocess
import sys
import types

import pytest

import federated
from federated import partition, plots, privacy, strategies

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "api" / "federated.md"
NAMES = [
    f"{module.__name__}.{name}"
    for module in (federated, strategies)
    for name in module.__all__
    if not isinstance(getattr(module, name), types.ModuleType)
] + [
    f"{module.__name__}.{name}"
    for module in (partition, plots, privacy)
    for name, public in vars(module).items()
    if not name.startswith("_")
    and getattr(public, "__module__", None) == module.__name__
]


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_documented(name):
    documented = re.findall(r"^::: ([\w.]+)$", PAGE.read_text(), flags=re.MULTILINE)
    assert name in documented or name == "federated.partition.labels_of"


def test_names_are_not_hidden_by_modules():
    """Importing a module sets its name in the package, in the place of a function."""
    program = (
        "import federated, importlib, pathlib\n"
        "for path in pathlib.Path(federated.__file__).parent.glob('*.py'):\n"
        "    if path.stem not in ('__init__', '__main__', 'child'):\n"
        "        importlib.import_module(f'federated.{path.stem}')\n"
        "assert callable(federated.simulate) and callable(federated.Clients)\n"
        "assert set(federated.__all__) <= set(dir(federated))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'federated' has no attribute 'x'"):
        federated.x  # noqa: B018
