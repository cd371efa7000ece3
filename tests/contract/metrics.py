"""What every metric of class probabilities must pass, alone and in a model."""

from pathlib import Path

import keras
import numpy as np

from tests.cases import Case

CLASSES = 3
ROWS = 64
BATCH = 24  # The last batch is smaller.


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, CLASSES)).astype("float32")
    labels = rng.integers(0, CLASSES, ROWS)
    return x, labels, rng.uniform(0, 2, ROWS).astype("float32")


def model(case: Case, jit_compile=False, dtype="float32"):
    """Softmax regression with the metric, unweighted and weighted."""
    keras.utils.set_random_seed(1)
    made = keras.Sequential(
        [
            keras.Input((CLASSES,)),
            keras.layers.Dense(CLASSES),
            keras.layers.Activation("softmax", dtype=dtype),
        ]
    )
    made.compile(
        "sgd",
        "sparse_categorical_crossentropy",
        metrics=[case.make(name="plain")],
        weighted_metrics=[case.make(name="weighted")],
        jit_compile=jit_compile,
    )
    return made


def expected(case: Case, made):
    """The values of one batch, in one call."""
    x, y, weight = data()
    p = made.predict(x, batch_size=ROWS, verbose=0)
    return {
        "plain": float(case.make()(y, p)),
        "weighted": float(case.make()(y, p, weight)),
    }


def evaluate(made):
    x, y, weight = data()
    logs = made.evaluate(
        x, y, sample_weight=weight, batch_size=BATCH, verbose=0, return_dict=True
    )
    return {name: logs[name] for name in ("plain", "weighted")}


def assert_close(one, other, rtol=1e-5):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=rtol, err_msg=name)


def check_config_round_trip(case: Case):
    """The configuration makes the same metric again, under a registered name."""
    metric = case.make(name="mine", dtype="float64")
    copy = type(metric).from_config(metric.get_config())
    assert copy.get_config() == metric.get_config()
    stored = keras.saving.serialize_keras_object(metric)
    assert stored["registered_name"] == f"kerasreg>{case}"
    copy = keras.saving.deserialize_keras_object(stored)
    assert copy.get_config() == metric.get_config()
    assert copy.result().dtype == "float64"


def check_batches(case: Case):
    """Batches give what one batch gives; a reset forgets them."""
    _, y, weight = data()
    p = np.random.default_rng(1).dirichlet(np.ones(CLASSES), ROWS)
    metric = case.make()
    for _ in range(2):
        for rows in np.split(np.arange(ROWS), [1, 20, 50]):
            metric.update_state(y[rows], p[rows], weight[rows])
        np.testing.assert_allclose(
            metric.result(), case.make()(y, p, weight), rtol=1e-6
        )
        metric.reset_state()
        assert float(metric.result()) == 0.0


def check_stateless(case: Case):
    """The stateless calls agree and leave the state alone."""
    _, y, weight = data()
    p = np.random.default_rng(1).dirichlet(np.ones(CLASSES), ROWS)
    metric = case.make()
    state = metric.stateless_update_state(metric.variables, y, p, weight)
    np.testing.assert_allclose(
        metric.stateless_result(state), case.make()(y, p, weight), rtol=1e-6
    )
    assert float(metric.result()) == 0.0


def check_fit(case: Case, jit_compile):
    """It runs in `fit`; a trained model's values are those of one call."""
    x, y, weight = data()
    made = model(case, jit_compile)
    history = made.fit(
        x,
        y,
        sample_weight=weight,
        validation_data=(x, y, weight),
        batch_size=BATCH,
        epochs=2,
        verbose=0,
    ).history
    last = {name: history[f"val_{name}"][-1] for name in ("plain", "weighted")}
    assert_close(last, expected(case, made))


def check_half_precision(case: Case, policy):
    """It takes the outputs of a model in half precision as they are."""
    keras.config.set_dtype_policy(policy)
    made = model(case, dtype=policy)
    x, y, _ = data()
    outputs = made(x)
    assert outputs.dtype == policy.removeprefix("mixed_")
    wide = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float64"))
    result = case.make()(y, outputs)
    assert result.dtype == "float32"
    np.testing.assert_allclose(result, case.make()(y, wide), rtol=1e-6)
    made.fit(x, y, batch_size=BATCH, verbose=0)
    assert np.isfinite(made.evaluate(x, y, verbose=0)).all()


def check_save_and_load(case: Case, folder: Path):
    """A compiled model on disk brings it along."""
    made = model(case)
    before = evaluate(made)
    made.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    assert_close(evaluate(loaded), before)


def check_two_devices(case: Case, strategy):
    """The sums of two devices are those of one."""
    with strategy.scope():
        made = model(case)
    x, y, weight = data()
    made.fit(x, y, sample_weight=weight, batch_size=BATCH, epochs=2, verbose=0)
    assert_close(evaluate(made), expected(case, made))
