"""Every public name of `federated` is documented."""

import pathlib
import re
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
