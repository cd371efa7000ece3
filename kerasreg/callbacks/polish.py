"""A callback that ends mini-batch training at an exact solution."""

import keras

from kerasreg.optimizers.solve import solve
from kerasreg.regularizers.base import check_count, check_number


class Polish(keras.callbacks.Callback):
    """Run `kerasreg.optimizers.solve` on all of the data when `fit` ends.

    Proximal steps on mini-batches approach the objective's minimum but do not
    find its zeros: the noise of the batches lifts small weights over the
    threshold again and again, and when the learning rate has fallen so far that
    the noise is gone, the threshold, which is learning rate times strength, is
    gone with it. (Averaging over batches, as dual averaging does, or all of the
    data in each step is what identifies the support.) The objective is close, and
    many of the weights that should be zero are not: `benchmarks/lasso` is the
    script to see it. A polish from there takes few steps and leaves the exact zeros.

    It works with any optimizer, `Proximal` or not, as long as the penalties have
    a proximal map, and minimizes what `solve` minimizes: the compiled loss on `x`
    and `y` with the model in inference mode, so without dropout or augmentation.
    Where the optimizer averages weights (`use_ema`), Keras has put the averages
    in place by then, and the polish starts from them. Checkpoints of earlier
    epochs are not polished; the history ends before the polish. Put it after an
    EarlyStopping that restores the best weights.

    Args:
        x: Inputs as the model takes them: array(s) of n samples.
        y: Targets: array(s) of n samples.
        sample_weight: Weights of the samples as in `fit`: array(s) of n numbers.
        tol: Positive number: the gap to reach, relative to the objective.
        max_steps: Positive integer.
        verbose: 1 prints the solution.

    Attributes:
        solution: The `kerasreg.optimizers.Solution` of the last `fit`, or `None`.

    Raises:
        ValueError: If `tol` or `max_steps` is out of range; at the end of `fit`
            what `solve` raises.
        TypeError: If one is of the wrong type.

    Example:

    >>> import keras
    >>> from kerasreg.callbacks import Polish
    >>> from kerasreg.regularizers import L1
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((64, 5), seed=0)
    >>> y = x[:, :1]
    >>> model = keras.Sequential([keras.layers.Dense(1, kernel_regularizer=L1(0.1))])
    >>> model.compile("adam", loss="mse")
    >>> polish = Polish(x, y)
    >>> history = model.fit(x, y, batch_size=16, verbose=0, callbacks=[polish])
    >>> polish.solution.converged
    True
    >>> model.layers[0].kernel.numpy().round(2).ravel().tolist()
    [0.95, 0.0, 0.0, 0.0, 0.0]

    Reference: Xiao 2010, "Dual averaging methods for regularized stochastic
    learning and online optimization", section 1.2; Lee & Wright 2012, "Manifold
    identification in dual averaging for regularized stochastic online learning".
    """

    def __init__(
        self, x, y, *, sample_weight=None, tol=1e-6, max_steps=1000, verbose=0
    ):
        super().__init__()
        self._data = (x, y, sample_weight)
        self._tol = check_number("tol", tol, above=0.0)
        self._max_steps = check_count("max_steps", max_steps)
        self._verbose = verbose
        self.solution = None

    def on_train_begin(self, logs=None):
        """Forget the solution of an earlier `fit`."""
        self.solution = None

    def on_train_end(self, logs=None):
        """Solve, starting from where training ended."""
        x, y, sample_weight = self._data
        self.solution = solve(
            self.model,
            x,
            y,
            sample_weight=sample_weight,
            tol=self._tol,
            max_steps=self._max_steps,
            verbose=self._verbose,
        )
