"""Two coefficients under one strength, which keeps their ratio."""

import numpy as np
import pytest

from kerasreg.regularizers import L1, L2, ElasticNet, GroupLasso, SparseGroupLasso


def test_the_strength_is_the_sum_and_keeps_the_ratio():
    penalty = ElasticNet(l1=0.03, l2=0.01)
    assert penalty.strength == 0.04
    penalty.strength = 0.4
    assert (penalty.l1, penalty.l2) == (0.3, 0.1)
    assert penalty.get_config() == {"l1": 0.3, "l2": 0.1}
    w = np.array([1.0, -2.0])
    assert float(penalty(w)) == pytest.approx(0.3 * 3 + 0.1 * 5)


@pytest.mark.parametrize(
    ("penalty", "names"),
    [
        (ElasticNet(0.06, 0.02), ("l1", "l2")),
        (SparseGroupLasso(0.06, 0.02), ("l1", "group")),
    ],
    ids=["ElasticNet", "SparseGroupLasso"],
)
def test_the_ratio_survives_zero(penalty, names):
    penalty.strength = 0.0
    assert [getattr(penalty, name) for name in names] == [0.0, 0.0]
    assert float(penalty(np.ones((2, 2)))) == 0.0
    # Also saved and loaded while it is zero.
    again = type(penalty).from_config(penalty.get_config())
    for each in (penalty, again):
        assert each.strength == 0.0
        each.strength = 0.8
        assert [getattr(each, name) for name in names] == [0.6, 0.2]


@pytest.mark.parametrize("make", [L1, L2, GroupLasso])
def test_one_coefficient_may_start_at_zero(make):
    penalty = make(0.0)
    assert float(penalty(np.ones((2, 2)))) == 0.0
    again = type(penalty).from_config(penalty.get_config())
    for each in (penalty, again):
        each.strength = 0.5
        assert float(each(np.ones((2, 2)))) == pytest.approx(
            float(make(0.5)(np.ones((2, 2))))
        )


def test_no_coefficient_no_ratio():
    penalty = ElasticNet()
    penalty.strength = 0.0
    with pytest.raises(ValueError) as error:
        penalty.strength = 0.1
    assert str(error.value) == (
        "Invalid value for `strength`. Expected a penalty with a positive `l1` or "
        "`l2`, whose ratio the strength keeps. "
        "Received: strength=0.1 for ElasticNet(l1=0.0, l2=0.0)"
    )
    assert float(penalty(np.ones(3))) == 0.0
    np.testing.assert_array_equal(penalty.prox(np.ones(3, "float32"), 1.0), np.ones(3))


def test_both_coefficients_are_checked_by_name():
    for name in ("l1", "l2"):
        with pytest.raises(ValueError, match=f"argument `{name}`.*{name}=-1"):
            ElasticNet(**{name: -1})
        with pytest.raises(TypeError, match=f"argument `{name}`.*{name}='a'"):
            ElasticNet(**{name: "a"})
    with pytest.raises(ValueError, match=r"argument `group`.*group=nan"):
        SparseGroupLasso(group=float("nan"))
    with pytest.raises(ValueError, match="argument `strength`"):
        ElasticNet(3e38, 3e38)  # each fits a float32, their sum does not


def test_coefficients_are_shown_as_given():
    penalty = ElasticNet(l1=1e-3, l2=7e-5)
    assert repr(penalty) == "ElasticNet(l1=0.001, l2=7e-05)"
    penalty.strength = 5.0
    penalty.strength = 1e-3 + 7e-5
    assert repr(penalty) == "ElasticNet(l1=0.001, l2=7e-05)"


def test_a_config_loses_no_bit_of_the_strength():
    """Training goes on exactly as it would have, whatever the ratio."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        penalty = ElasticNet(*10 ** rng.uniform(-6, 0, size=2))
        penalty.strength = rng.uniform()
        again = ElasticNet.from_config(penalty.get_config())
        assert again.strength == penalty.strength
        assert again.l1 == pytest.approx(penalty.l1, rel=1e-11)
        assert again.l2 == pytest.approx(penalty.l2, rel=1e-11)
