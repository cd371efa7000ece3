"""The Gauss-Newton matrix of a model's loss, exactly, for groups of weights."""

import keras
import numpy as np
from keras import ops, tree


class Sums:
    """Sums over the samples of a data set, in one traced graph a batch.

    The model runs in inference mode and stays as it is: its weights, statistics and
    seeds too. The last batch is filled up with samples of weight 0, so that there is
    one trace.

    Args:
        model: The built `keras.Model`.
        likelihood: A `Likelihood`.
        terms: Function from (weights, forward, weight) to a list of tensors to be
            summed, where `forward()` runs the model and returns its outputs.
        variables: The weights to differentiate by; `terms` gets them as tensors.
    """

    def __init__(self, model, likelihood, terms, variables):
        # tensorflow: Keras has no public call that makes a graph of a function.
        import tensorflow as tf

        self._model, self._likelihood = model, likelihood
        self._terms, self._variables = terms, variables
        self._graph = tf.function(self._run, autograph=False)
        double = any(v.dtype == "float64" for v in model.variables)
        self._dtype = "float64" if double else "float32"
        self.traces = 0
        self.shape = ()

    def _run(self, x, y, weight):
        self.traces += 1
        weights = [ops.convert_to_tensor(v.value) for v in self._variables]
        seen: list = []

        def forward():
            pairs = list(zip(self._variables, weights, strict=True))
            with keras.StatelessScope(pairs):
                outputs = tree.flatten(self._model(x, training=False))
            seen.extend(map(_full, outputs))
            _check_outputs(outputs)
            root = ops.sqrt(ops.cast(weight, seen[0].dtype))
            shape = (-1, *[1] * (len(seen[0].shape) - 1))
            return self._likelihood.roots(seen[0]) * ops.reshape(root, shape)

        terms = self._terms(weights, forward, weight)
        self.shape = tuple(seen[0].shape)
        error = ops.sum(weight * self._likelihood.errors(y, seen[0]))
        return error, *terms

    def __call__(self, x, y, sample_weight, batch_size):
        """The sum of the errors, and the sums of the terms, as float64 arrays."""
        rows = len(tree.flatten(x)[0])
        if sample_weight is None:
            sample_weight = np.ones(rows)
        sample_weight = np.asarray(sample_weight, "float64")
        total = None
        for start in range(0, rows, batch_size):
            index = np.arange(start, start + batch_size)
            weight = np.where(index < rows, sample_weight[index % rows], 0.0)
            batch = [self._take(each, index % rows) for each in (x, y)]
            sums = self._graph(*batch, ops.convert_to_tensor(weight, "float64"))
            sums = [np.asarray(each, "float64") for each in sums]
            if total is None:
                total = sums
            else:
                total = [a + b for a, b in zip(total, sums, strict=True)]
        return total

    def _take(self, arrays, index):
        def take(array):
            taken = np.asarray(array)[index]
            kind = keras.backend.standardize_dtype(taken.dtype)
            floating = kind.startswith(("float", "bfloat"))
            return ops.convert_to_tensor(taken, self._dtype if floating else None)

        return tree.map_structure(take, arrays)


def _full(outputs):
    """Half precision as float32."""
    if keras.backend.standardize_dtype(outputs.dtype) == "float64":
        return outputs
    return ops.cast(outputs, "float32")


def _check_outputs(outputs):
    masked = getattr(outputs[0], "_keras_mask", None) is not None
    if len(outputs) != 1 or len(outputs[0].shape) < 2 or masked:
        found = "masked outputs" if masked else [tuple(o.shape) for o in outputs]
        raise ValueError(
            "`Evidence` needs a model of one output, with an axis of its own beside "
            f"that of the samples, and no mask. Received: {found}"
        )


class Exact:
    """The Gauss-Newton matrix `Σ Jᵀ Λ J`, whole or in diagonal blocks.

    Args:
        model: The built `keras.Model`.
        likelihood: A `Likelihood`.
        blocks: List of dicts, one a block, from the name of each unit in it to its
            weights. The key `None` holds weights with a flat prior.
    """

    def __init__(self, model, likelihood, blocks):
        self._blocks = blocks
        found = {id(v): v for b in blocks for each in b.values() for v in each}
        self._rows = {key: row for row, key in enumerate(found)}
        self.sums = Sums(model, likelihood, self._terms, list(found.values()))

    def _terms(self, weights, forward, weight):
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            roots = forward()
            rows = roots.shape[0]
            roots = ops.reshape(roots, (rows, -1))
        jacobians = tape.jacobian(roots, weights, tf.UnconnectedGradients.ZERO)
        jacobians = [ops.reshape(j, (rows * roots.shape[1], -1)) for j in jacobians]
        matrices = []
        for block in self._blocks:
            own = [
                jacobians[self._rows[id(v)]] for each in block.values() for v in each
            ]
            own = ops.cast(ops.concatenate(own, -1), "float64")
            matrices.append(ops.matmul(ops.transpose(own), own))
        return matrices

    def determined(self, sums, precisions):
        """How much the data say on each unit.

        Args:
            sums: What `sums` returned, without the error.
            precisions: Dict from the name of each unit to the list of the prior
                precisions of its weights, arrays that broadcast to them.

        Returns:
            A dict from the name of each unit to the pair of `gamma`, the number of
            its weights that are determined by the data, and `½ log det(1 + H/A)`.
        """
        found = {}
        for block, matrix in zip(self._blocks, sums, strict=True):
            prior, owner = [], []
            for index, (name, variables) in enumerate(block.items()):
                flat = [0.0] * len(variables)
                for v, p in zip(variables, precisions.get(name, flat), strict=True):
                    prior.append(np.broadcast_to(p, tuple(v.shape)).ravel())
                    owner.append(np.full(prior[-1].size, index))
            gammas, logs, kept = marginal(matrix, np.concatenate(prior))
            owners = np.concatenate(owner)[kept]
            for index, name in enumerate(block):
                if name is not None:
                    own = owners == index
                    found[name] = float(gammas[own].sum()), float(logs[own].sum())
        return found


def marginal(matrix, precision):
    """What is known of each weight, once those without a prior are integrated out.

    Args:
        matrix: Symmetric positive semi-definite (p, p) array `H`.
        precision: Array of p prior precisions, 0 for a flat prior.

    Returns:
        Three arrays, for the q weights with a prior: the diagonal of `1 − Σ·A`,
        which adds up to their number of determined directions; terms that add up to
        `½ log det(1 + H/A)`; and their indices.
    """
    kept, free = np.flatnonzero(precision > 0), np.flatnonzero(precision <= 0)
    data = matrix[np.ix_(kept, kept)]
    if free.size:
        cross = matrix[np.ix_(kept, free)]
        values, vectors = np.linalg.eigh(matrix[np.ix_(free, free)])
        seen = values > _RANK * max(values[-1], 0.0)
        cross = cross @ (vectors[:, seen] / np.sqrt(values[seen]))
        data = data - cross @ cross.T
    prior = np.maximum(precision[kept], _RANK * np.max(np.diag(data), initial=0.0))
    root = np.linalg.cholesky(data + np.diag(prior))
    gammas = 1.0 - prior * np.sum(np.square(np.linalg.inv(root)), 0)
    logs = np.log(np.diag(root)) - 0.5 * np.log(prior)
    return gammas, logs, kept


_RANK = 1e-10  # relative eigenvalue from which on a direction counts as seen
