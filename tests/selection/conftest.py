"""A comparison that several files of tests look at."""

import pytest

from kerasreg.regularizers import L1, L2, GroupLasso
from kerasreg.selection import compare
from tests.selection.fits import SMALL, X, Y, build


@pytest.fixture(scope="session")
def result():
    candidates = {
        "L1": L1(0.05),
        "rules": {"dense*": L2(0.01), "*/kernel": GroupLasso(0.05)},
        "dropout": lambda: build(dropout=0.5),
    }
    names = list("abcdef")
    return compare(build, X, Y, candidates, feature_names=names, **SMALL)
