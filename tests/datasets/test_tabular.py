import sys

import numpy as np
import pytest

from kerasreg.datasets import breast_cancer


def test_breast_cancer_is_scikit_learns():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_breast_cancer

    x, y, names = breast_cancer()
    bunch = load_breast_cancer()
    np.testing.assert_allclose(x, bunch.data, rtol=1e-6)
    np.testing.assert_array_equal(y, bunch.target)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert names == tuple(bunch.feature_names)
    assert round(y.mean(), 2) == 0.63


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "kerasreg\[select\]"'):
        breast_cancer()
