"""What it means to be a proximal map: checks that know no formula of ours."""

import numpy as np
from scipy import integrate, optimize


def assert_minimizes(best, v, step, value, rtol=1e-12):
    """Each `best` is a global minimum of (u − v)²/(2·step) + value(|u|).

    Compared with a dense grid between −|v| and |v|, zero, and points ever closer to
    `best`; `value` acts on each weight by itself.
    """
    best, v, step = np.broadcast_arrays(
        *(np.asarray(array, "float64")[..., None] for array in (best, v, step))
    )

    def objective(u):
        return (u - v) ** 2 / (2 * step) + value(np.abs(u))

    grid = v * np.linspace(-1, 1, 1201)
    near = best + np.concatenate([s * np.geomspace(1e-9, 1, 60) for s in (-1, 1)])
    lowest = objective(np.concatenate([grid, near], axis=-1)).min(-1, keepdims=True)
    slack = rtol * (1 + value(np.abs(v)))
    worst = np.max(objective(best) - lowest - slack)
    assert worst <= 0, f"a grid point is lower by {worst}"


def integral(slope):
    """The penalty of the given slope, by quadrature, and zero at zero."""

    def value(size, breaks):
        inside = [b for b in breaks if 0 < b < size]
        return integrate.quad(slope, 0, size, points=inside or None, limit=200)[0]

    return value


def group_minimum(v, step, lam, l1=0.0):
    """The minimum of Σ(u − v)²/(2·step) + l1·Σ|u| + lam·‖u‖ over one group.

    From its optimality conditions, with SciPy's bracketing root finder in float64.
    """
    v, step = np.broadcast_arrays(np.asarray(v, "float64"), np.asarray(step, "float64"))
    v = np.sign(v) * np.maximum(np.abs(v) - step * l1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        dual = np.where(v == 0, 0.0, v / step)
    if np.linalg.norm(dual) <= lam:
        return np.zeros_like(v)

    def excess(log_norm):
        norm = np.exp(log_norm)
        return np.sum((v / (norm + lam * step)) ** 2) - 1

    upper = np.log(np.linalg.norm(v))
    if excess(upper) >= 0:  # rounding, when lam·step is tiny
        return v
    norm = np.exp(optimize.brentq(excess, -300, upper, xtol=1e-14, rtol=1e-14))
    return v * norm / (norm + lam * step)


def assert_group_optimal(u, v, step, lam, l1=0.0, rtol=1e-6):
    """0 lies in the subdifferential of one group's problem at `u`.

    (v − u)/step = l1·s + lam·z, with s a subgradient of Σ|u| and z one of ‖u‖.
    """
    u, v, step = (np.asarray(array, "float64") for array in (u, v, step))
    pull = (v - u) / step
    size = np.linalg.norm(u)
    slack = rtol * (l1 + lam)
    if size == 0:
        rest = np.sign(pull) * np.maximum(np.abs(pull) - l1, 0)
        assert np.linalg.norm(rest) <= lam + slack
        return
    noise = slack + rtol * np.abs(v) / step  # of the subtraction v − u
    alive = u != 0
    expected = l1 * np.sign(u) + lam * u / size
    assert np.all(np.abs(pull - expected)[alive] <= noise[alive])
    assert np.all(np.abs(pull)[~alive] <= l1 + noise[~alive])
