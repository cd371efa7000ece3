"""MCP, SCAD and group lasso: the objectives `solve` reaches beside skglm's."""

import pathlib
import sys
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
import skglm
from keras import ops
from skglm.datafits import Quadratic
from skglm.penalties import SCAD as PeerSCAD
from skglm.solvers import AndersonCD

from kerasreg.optimizers import solve
from kerasreg.regularizers import MCP, SCAD, GroupLasso

N, P, K = 200, 400, 4
GAMMA = 3.7


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, P)).astype("float32").astype("float64")
    w = np.zeros((P, K))
    w[:20] = rng.normal(size=(20, K)) * 2
    y = x @ w + rng.normal(size=(N, K))
    return x, y.astype("float32").astype("float64")


def half_square(y_true, y_pred):
    """The squared error as skglm has it."""
    return ops.mean(ops.square(y_true - y_pred), -1) / 2


def ours(x, y, penalty, loss):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(y.shape[1], kernel_regularizer=penalty)
    model = keras.Sequential([keras.Input((P,)), dense])
    model.compile(loss=loss)
    dense.kernel.assign(np.zeros(dense.kernel.shape))
    solution = solve(model, x, y, tol=1e-8)
    return solution, [w.astype("float64") for w in model.get_weights()]


def concave(x, y, alpha):
    y = y[:, :1]
    rows = {}
    peers = {
        "MCP": (MCP(alpha, GAMMA), skglm.MCPRegression(alpha, gamma=GAMMA, tol=1e-8)),
        "SCAD": (
            SCAD(alpha, GAMMA),
            skglm.GeneralizedLinearEstimator(
                Quadratic(), PeerSCAD(alpha, GAMMA), AndersonCD(tol=1e-8)
            ),
        ),
    }
    for name, (penalty, peer) in peers.items():
        solution, (w, b) = ours(x, y, penalty, half_square)
        peer.fit(x, y[:, 0])
        theirs = np.reshape(peer.coef_, (P, 1)), np.ravel(peer.intercept_)

        def objective(w, b, penalty=penalty):
            loss = np.mean((y - x @ w - b) ** 2) / 2
            return float(loss + penalty(ops.convert_to_tensor(w, "float64")))

        rows[name] = _row(solution, w, theirs[0], objective(w, b), objective(*theirs))
    return rows


def group(x, y, alpha):
    # (1/2n)‖Y − XW‖² + alpha·Σ‖W_j‖, times 2/k: Keras averages over the outputs.
    penalty = GroupLasso(2 * alpha / K**1.5)
    solution, (w, b) = ours(x, y, penalty, "mse")
    peer = skglm.MultiTaskLasso(alpha, tol=1e-10).fit(x, y)

    def objective(w, b):
        loss = np.sum((y - x @ w - b) ** 2) / (2 * N)
        return float(loss + alpha * np.linalg.norm(w, axis=1).sum())

    theirs = peer.coef_.T, np.ravel(peer.intercept_)
    return _row(solution, w, theirs[0], objective(w, b), objective(*theirs))


def _row(solution, ours, theirs, value, peer):
    return {
        "solution": repr(solution),
        "objective": value,
        "skglm": peer,
        "relative_difference": value / peer - 1,
        "nonzeros": int((ours != 0).sum()),
        "skglm_nonzeros": int((theirs != 0).sum()),
        "same_support": bool(((ours != 0) == (theirs != 0)).all()),
        "largest_difference": float(np.abs(ours - theirs).max()),
    }


def main():
    quick = harness.arguments().quick
    warnings.simplefilter("ignore")
    x, y = data()
    result = {**concave(x, y, 0.3), "group lasso": group(x, y, 1.0)}
    harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
