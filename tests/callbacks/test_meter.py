"""What is measured in a running `fit`, against gradients taken by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.callbacks.data_loss import DataLoss
from kerasreg.callbacks.meter import Meter, added_losses
from kerasreg.callbacks.units import units_of
from kerasreg.layers import BayesianDense
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, ElasticNet, Prior
from tests.exhaustive import some

FIELDS = ("gradient_norm", "penalty_gradient_norm", "norm", "sparsity", "penalty")
SGD = keras.optimizers.SGD
OPTIMIZERS = {
    "SGD": lambda: SGD(0.05),
    "clipnorm": lambda: SGD(0.05, clipnorm=0.1),
    "global_clipnorm": lambda: SGD(0.05, global_clipnorm=0.1),
    "clipvalue": lambda: SGD(0.05, clipvalue=0.01),
    "loss-scale": lambda: keras.optimizers.LossScaleOptimizer(SGD(0.05)),
    "proximal": lambda: Proximal(SGD(0.05)),
    "proximal-clipnorm": lambda: Proximal(SGD(0.05, clipnorm=0.1)),
    "loss-scale-proximal": lambda: keras.optimizers.LossScaleOptimizer(
        Proximal(SGD(0.05))
    ),
}
PENALTIES = {
    "elastic net": lambda: ElasticNet(l1=0.3, l2=0.2),
    "no map": lambda: Prior("StudentT", 0.3, df=3.0),
}


def data(rows=32):
    x = np.random.default_rng(0).normal(size=(rows, 6)).astype("float32")
    return x, x[:, :1] - 0.5 * x[:, 1:2]


def network(penalty, optimizer, **arguments):
    keras.utils.set_random_seed(1)
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(
                4,
                "tanh",
                kernel_regularizer=penalty(),
                bias_regularizer=penalty(),
                name="hidden",
            ),
            keras.layers.Dense(1, kernel_regularizer=penalty(), name="out"),
        ]
    )
    built.compile(optimizer, "mse", **{"jit_compile": False, **arguments})
    return built


class Reader(keras.callbacks.Callback):
    """Reads a meter at the end of every `every`-th batch."""

    def __init__(self, every=1, fields=FIELDS):
        super().__init__()
        self.every, self.fields, self.seen = every, fields, []

    def set_model(self, model):
        super().set_model(model)
        self.meter = Meter(model, units_of(model), self.fields)

    def on_train_begin(self, logs=None):
        self.meter.start(self.every)

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every == 0:
            self.seen.append(self.meter.read())

    def on_train_end(self, logs=None):
        self.meter.stop()


def by_hand(built, x, y):
    """‖∇L‖, ‖∇h‖ and ‖w‖ of the two layers."""
    with tf.GradientTape(persistent=True) as tape:
        loss = keras.ops.mean(keras.ops.square(y - built(x)))
        added = sum(built.losses)
    rows = []
    for weights in (built.layers[0].weights, built.layers[1].weights[:1]):
        own = [tape.gradient(added, w) for w in weights]
        grads = [tape.gradient(loss, w) for w in weights]
        rows.append([float(tf.linalg.global_norm(g)) for g in (grads, own, weights)])
    return np.array(rows)


def norms(units):
    return np.array(
        [[u.gradient_norm, u.penalty_gradient_norm, u.norm] for u in units.values()]
    )


@pytest.mark.parametrize("penalty", some(PENALTIES, "elastic net"))
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_gradients(optimizer, penalty):
    """Of the first batch at the first weights, before clipping and scaling."""
    built = network(penalty, optimizer())
    x, y = data()
    expected = by_hand(built, x[:8], y[:8])
    reader = Reader()
    built.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[reader])
    np.testing.assert_allclose(norms(reader.seen[0]), expected, rtol=2e-5)
    assert len(reader.seen) == 4


def test_gradients_under_xla():
    built = network(PENALTIES["elastic net"], Proximal(SGD(0.05)), jit_compile=True)
    x, y = data()
    expected = by_hand(built, x[:8], y[:8])
    reader = Reader()
    built.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[reader])
    np.testing.assert_allclose(norms(reader.seen[0]), expected, rtol=2e-5)


def test_gradients_of_two_replicas(two_cpus):
    with two_cpus.scope():
        built = network(PENALTIES["elastic net"], SGD(0.05))
    x, y = data()
    expected = by_hand(built, x[:8], y[:8])
    reader = Reader()
    built.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[reader])
    np.testing.assert_allclose(norms(reader.seen[0]), expected, rtol=2e-5)


def test_gradients_of_accumulated_batches():
    """Those of two batches together, at every second."""
    optimizer = SGD(0.05, gradient_accumulation_steps=2)
    built = network(PENALTIES["elastic net"], optimizer)
    x, y = data()
    expected = by_hand(built, x[:16], y[:16])
    reader = Reader()
    built.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[reader])
    assert reader.seen[0]["hidden"].gradient_norm is None
    np.testing.assert_allclose(norms(reader.seen[1]), expected, rtol=2e-5)


def test_interval():
    """One step of each interval, its last one; several readings on the way."""
    x, y = data()
    every, third = Reader(1), Reader(4)
    built = network(PENALTIES["elastic net"], SGD(0.05))
    built.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[every, third])
    np.testing.assert_allclose(norms(third.seen[0]), norms(every.seen[3]), rtol=1e-6)
    np.testing.assert_allclose(norms(third.seen[1]), norms(every.seen[7]), rtol=1e-6)
    assert len(third.seen) == 2


def test_root_mean_square_over_steps():
    x, y = data()
    one, four = Reader(1), Reader(4)
    four.on_train_begin = lambda logs=None: four.meter.start(1)
    built = network(PENALTIES["elastic net"], SGD(0.05))
    built.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[one, four])
    squares = np.mean([norms(units) ** 2 for units in one.seen], axis=0)
    np.testing.assert_allclose(norms(four.seen[0]), np.sqrt(squares), rtol=1e-5)


def test_nothing_is_changed():
    weights = []
    for callbacks in ([], [Reader()]):
        built = network(PENALTIES["elastic net"], Proximal(keras.optimizers.Adam(0.01)))
        for _ in range(2):
            built.fit(*data(), batch_size=8, verbose=0, callbacks=callbacks)
        weights.append(built.get_weights())
    for mine, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_rows_of_an_embedding():
    """A sparse gradient, whose rows may come twice."""
    keras.utils.set_random_seed(1)
    tokens = np.array([[1, 1, 2], [1, 3, 3]])
    built = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(5, 2, embeddings_regularizer=L2(0.1), name="words"),
            keras.layers.GlobalAveragePooling1D(),
        ]
    )
    built.compile(SGD(0.1), "mse", jit_compile=False)
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(keras.ops.square(1.0 - built(tokens)))
    (gradient,) = tape.gradient(loss, built.trainable_variables)
    expected = float(tf.norm(tf.convert_to_tensor(gradient)))
    reader = Reader()
    built.fit(tokens, np.ones((2, 2)), verbose=0, callbacks=[reader])
    assert reader.seen[0]["words"].gradient_norm == pytest.approx(expected, rel=1e-5)


def test_present_weights():
    built = network(lambda: L1(0.5), "sgd")
    built.layers[0].kernel.assign(np.eye(6, 4))
    units = Meter(built, units_of(built), ("sparsity", "norm", "penalty")).read()
    hidden = units["hidden"]
    assert (hidden.size, hidden.strength) == (28, 0.5)
    assert hidden.sparsity == 24 / 28  # the biases are zero, too
    assert hidden.norm == pytest.approx(2.0)
    assert hidden.penalty == pytest.approx(0.5 * 4)
    assert hidden.gradient_norm is None


# The loss without penalties ----------------------------------------------------


class Losses(keras.callbacks.Callback):
    def set_model(self, model):
        super().set_model(model)
        self.meter, self.seen = DataLoss.of(model), []

    def on_epoch_begin(self, epoch, logs=None):
        self.meter.reset()

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.meter.read())


@pytest.mark.parametrize("proximal", [False, True], ids=["loss", "proximal"])
def test_data_loss(proximal):
    """The mean over examples of what Keras reports for a metric of the same name."""
    optimizer = keras.optimizers.Adam(0.01)
    built = network(
        PENALTIES["elastic net"],
        Proximal(optimizer) if proximal else optimizer,
        metrics=["mse"],
    )
    losses = Losses()
    history = built.fit(
        *data(30), batch_size=8, epochs=2, verbose=0, callbacks=[losses]
    ).history
    np.testing.assert_allclose(losses.seen, history["mse"], rtol=1e-4)
    assert history["loss"][0] > history["mse"][0] + 0.1


def test_data_loss_of_two_replicas(two_cpus):
    with two_cpus.scope():
        built = network(PENALTIES["elastic net"], SGD(0.05), metrics=["mse"])
    losses = Losses()
    history = built.fit(*data(), batch_size=8, verbose=0, callbacks=[losses]).history
    np.testing.assert_allclose(losses.seen, history["mse"], rtol=1e-4)


def test_validation_is_not_training():
    built = network(PENALTIES["elastic net"], SGD(0.0), metrics=["mse"])
    losses = Losses()
    x, y = data()
    history = built.fit(
        x, y, validation_data=(x, y + 10), batch_size=8, verbose=0, callbacks=[losses]
    ).history
    np.testing.assert_allclose(losses.seen, history["mse"], rtol=1e-4)


def test_a_loss_of_the_users_own():
    class Model(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return super().compute_loss(x, y, y_pred, sample_weight)

    inputs = keras.Input((6,))
    built = Model(inputs, keras.layers.Dense(1)(inputs))
    built.compile("sgd", "mse")
    assert DataLoss.of(built) is None


def test_added_losses():
    inputs = keras.Input((6,))
    hidden = BayesianDense(4, num_examples=32, name="bayes")(inputs)
    built = keras.Model(
        inputs, keras.layers.Dense(1, kernel_regularizer=L2(0.5))(hidden)
    )
    penalty, kl = added_losses(built)
    kernel = built.layers[2].kernel.numpy()
    assert penalty == pytest.approx(0.5 * np.sum(kernel**2), rel=1e-5)
    assert penalty + kl == pytest.approx(float(sum(built.losses)), rel=1e-5)
