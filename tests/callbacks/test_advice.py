"""`advice`: right about simulated and real trainings, silent about healthy ones."""

import keras
import numpy as np
import pytest

from kerasreg.callbacks import RegularizationMonitor, advice
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2

EPOCHS = np.arange(30)
FALLS = 0.2 + 1.5 * np.exp(-EPOCHS / 5)


def history(train=FALLS, validation=FALLS + 0.02, **units):
    """A history of 30 epochs; keys of units are `ratio_a`, `sparsity_b` and so on."""
    logs = {"data_loss": train, "val_data_loss": validation}
    for name, value in units.items():
        quantity, _, unit = name.partition("_")
        quantity = {"ratio": "gradient_ratio"}.get(quantity, quantity)
        key = f"{quantity}/{unit}" if unit and quantity != "kl" else name
        logs[key] = np.broadcast_to(value, len(train))
    return {name: list(map(float, values)) for name, values in logs.items()}


def turned(low, turn, slope):
    """Down to `low` until an epoch, then up."""
    down = low + np.exp(-np.arange(turn) / 2.0) - np.exp(-(turn - 1) / 2.0)
    return np.concatenate([down, low + slope * np.arange(1, 31 - turn)])


def simulated(rng):
    """A healthy training: exponential curves, a gap that grows, noise up to 6 %."""
    n = int(rng.integers(3, 200))
    decay = np.exp(-np.arange(n) / rng.uniform(1, n / 1.5 + 2))
    floor = rng.choice([0.0, 0.05, 0.3, 1.0])
    base = floor + rng.uniform(0.3, 3) * decay
    gap = rng.uniform(0, 0.3) * (1 - decay) * (floor + 0.05)
    noise = rng.choice([0.0, 0.002, 0.01, 0.03, 0.06])
    train = base * (1 + noise / 3 * rng.normal(size=n))
    validation = (base + gap) * (1 + noise * rng.normal(size=n))
    ratio = 10 ** rng.uniform(-3, -0.5) * np.exp(0.3 * rng.normal(size=n))
    return history(
        train, validation, penalty=0.1, ratio_a=ratio, sparsity_a=rng.uniform(0, 0.99)
    )


def test_healthy_trainings_get_no_advice():
    """None of 20000 did when this was written: 3 of 500 would be another rate."""
    rng = np.random.default_rng(0)
    assert sum(bool(advice(simulated(rng))) for _ in range(500)) < 3


@pytest.mark.parametrize("noise", [0.0, 0.005])
@pytest.mark.parametrize("low", [0.3, 3.0, -1.0])
def test_overfitting_and_where_it_begins(low, noise):
    train = low + 2 * np.exp(-EPOCHS / 8)
    rng = np.random.default_rng(1)
    validation = turned(low, 12, 0.05 * abs(low)) + noise * rng.normal(size=30)
    (line,) = advice(history(train, validation, ratio_a=0.02, ratio_b=0.003))
    best = np.argmin(validation) + 1
    assert line == (
        f"Since epoch {best} the validation loss rises while the training loss falls: "
        "overfitting. Raise the strength of `b` (its penalty pulls least, 0.003 times "
        f"as hard as the data), or stop at epoch {best}."
    )
    (line,) = advice(history(train, validation))
    assert line.endswith(f"overfitting. Add a penalty, or stop at epoch {best}.")


REMEDY = "Lower it, and see how low the losses go without penalties (a baseline)."


def test_both_losses_rise_under_a_penalty():
    train, validation = turned(0.5, 10, 0.02), turned(0.6, 10, 0.02)
    run = history(
        train, validation, penalty=3 / (1 + EPOCHS), ratio_dense=0.8, ratio_dense_1=2.5
    )
    assert advice(run) == [
        "Both losses rose for 20 epochs: the penalty on `dense_1` (its gradient is 2.5 "
        f"times the data's) is likely too strong. {REMEDY}"
    ]


def test_both_losses_rise_for_three_epochs():
    run = {"data_loss": [0.5, 0.6, 0.7, 0.8], "val_data_loss": [0.5, 0.6, 0.7, 0.8]}
    (line,) = advice({**run, "gradient_ratio/a": [0.5] * 4})
    assert line.startswith("Both losses rose for 3 epochs: the penalty on `a`")
    assert advice({name: values[:3] for name, values in run.items()}) == []


def test_both_losses_rise_for_another_reason():
    rising = {"train": turned(0.5, 10, 0.02), "validation": turned(0.6, 10, 0.02)}
    line = "Both losses rose for 20 epochs: the learning rate is likely too high."
    assert advice(history(**rising)) == [line]
    assert advice(history(**rising, penalty=EPOCHS + 1, ratio_a=0.1)) == [line]
    (line,) = advice(history(**rising, penalty=EPOCHS + 1, strength_a=EPOCHS + 1))
    assert line.startswith("Both losses rose for 20 epochs, as the strength of `a` did")
    warm = np.linspace(0, 1, 30)
    run = {**history(**rising), "kl": [0.1] * 30, "kl_factor": warm.tolist()}
    assert advice(run) == []


def test_losses_that_hardly_fall():
    run = history(2.3 - 0.001 * EPOCHS, 2.31 - 0.001 * EPOCHS, ratio_a=5.0, ratio_b=0.1)
    assert advice(run) == [
        "Both losses hardly fell in 30 epochs: the penalty on `a` (its gradient is 5 "
        f"times the data's) is likely too strong. {REMEDY}"
    ]
    sparse = history(2.3 - 0.001 * EPOCHS, 2.31 - 0.001 * EPOCHS, sparsity_a=0.97)
    (line,) = advice(sparse)
    assert "the penalty on `a` (97% of it is zero) is likely too strong" in line
    assert advice(history(sparsity_a=0.97)) == []  # they did fall
    run = history(2.3 - 0.001 * EPOCHS, 2.31 - 0.001 * EPOCHS, ratio_a=0.01)
    assert advice(run) == []  # it is not the penalty


def test_a_resumed_training_need_not_fall():
    resumed = keras.callbacks.History()
    resumed.history = history(
        0.3 - 1e-4 * EPOCHS, 0.31 - 1e-4 * EPOCHS, ratio_a=0.9, sparsity_a=0.97
    )
    resumed.epoch = list(range(10, 40))
    assert advice(resumed) == []
    resumed.epoch = list(range(30))
    assert len(advice(resumed)) == 1


def test_layers_that_are_all_zero():
    (line,) = advice(history(sparsity_a=1.0, sparsity_b=0.5))
    assert line == (
        "All weights of `a` are zero: nothing passes through. Lower its strength."
    )
    (line,) = advice(history(**{f"sparsity_{name}": 1.0 for name in "abcde"}))
    assert line.startswith("All weights of `a`, `b` and 3 more are zero")


def test_penalties_that_do_nothing():
    idle = {"ratio_b": 0.0, "strength_b": 0.0, "ratio_c": 0.0, "norm_c": 0.0}
    assert advice(history(ratio_a=1e-6, ratio_d=0.01, **idle)) == [
        "The penalty on `a` is too weak to matter: its gradient is 1e-06 times the "
        "data's."
    ]
    assert advice(history(ratio_a=1e-6, ratio_b=3e-6)) == [
        "The penalties on `b` and `a` are too weak to matter: their gradients are at "
        "most 3e-06 times the data's."
    ]


def test_a_kl_that_wins():
    rising = {"train": turned(0.2, 10, 0.02), "validation": FALLS}
    run = history(**rising, kl=3.0)
    assert advice(run) == [
        "The KL (3) is larger than the data loss (0.51), which rose. Let it come in "
        "slowly (KLWarmup), and check that `num_examples` is the number of training "
        "examples."
    ]
    assert advice(history(kl=3.0)) == []  # the data loss falls all the same
    assert advice(history(**rising, kl=0.01)) == []
    (line,) = advice(history(**rising, kl=3.0, kl_factor=1.0))
    assert "Give the KLWarmup more epochs, or lower `kl_strength`" in line


def test_a_baseline_that_is_better():
    baseline = {"loss": FALLS.tolist(), "val_loss": (FALLS + 0.01).tolist()}
    run = history(FALLS + 0.1, FALLS + 0.1, ratio_a=0.3)
    (line,) = advice(run, baseline=baseline)
    assert line == (
        "The baseline reaches a validation loss of 0.2145, this model 0.3045: the "
        "penalties cost more than they bring. Lower them, that of `a` first."
    )
    assert advice(history(), baseline=run) == []


def test_no_validation_data():
    run = {"data_loss": FALLS.tolist(), "strength/a": [0.1] * 30}
    (line,) = advice(run)
    assert line.startswith("Without validation data nothing tells")
    assert advice({"loss": FALLS.tolist()}) == []  # there is no penalty


def test_validation_now_and_then():
    run = history(0.3 + np.exp(-EPOCHS / 8), turned(0.3, 12, 0.02))
    run["val_data_loss"] = run["val_data_loss"][1::2]
    (line,) = advice(run)
    assert line.startswith("Since epoch 12 the validation loss rises")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_losses_that_are_not_finite(bad):
    train, validation = FALLS.copy(), FALLS.copy()
    validation[9:], train[10:] = bad, bad
    (line,) = advice(history(train, validation, ratio_a=bad, sparsity_a=1.0))
    assert line == (
        "`val_data_loss` is NaN or infinite from epoch 10 on. Look for NaN in the "
        "validation data, lower the learning rate, or clip the gradient (`clipnorm`)."
    )
    train[9:] = bad
    assert advice(history(train, validation))[0].startswith("`data_loss` is NaN")
    assert advice(history(ratio_a=bad, norm_a=bad)) == []  # 0/0 in a dead layer


def _fit(penalty, optimizer, epochs=40, spoil=False, width=16):
    """Ten features, one of which matters; 60 examples to train on."""
    keras.utils.set_random_seed(2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(180, 10)).astype("float32")
    y = x[:, :1] + 0.5 * rng.normal(size=(180, 1)).astype("float32")
    if spoil:
        x[3] = np.nan
    hidden = keras.layers.Dense(
        width, "relu", kernel_regularizer=penalty, name="hidden"
    )
    built = keras.Sequential([keras.Input((10,)), hidden, keras.layers.Dense(1)])
    built.compile(optimizer, "mse", jit_compile=False)
    monitor = RegularizationMonitor(verbose=1)
    data = {"validation_data": (x[60:], y[60:]), "batch_size": 20}
    built.fit(x[:60], y[:60], epochs=epochs, verbose=0, callbacks=[monitor], **data)
    return monitor.advice


def test_a_healthy_fit(capsys):
    assert _fit(L2(0.02), keras.optimizers.Adam(0.01), 30) == []
    assert capsys.readouterr().out == ""


def test_a_fit_under_too_much():
    (line,) = _fit(L2(50.0), keras.optimizers.Adam(0.01), 28)
    assert line.startswith("Both losses")
    assert "`hidden`" in line
    (line,) = _fit(L1(5.0), Proximal(keras.optimizers.Adam(0.02)))
    assert line.startswith("All weights of `hidden` are zero")


def test_a_fit_under_too_little(capsys):
    lines = _fit(L2(1e-8), keras.optimizers.Adam(0.02), 100, width=64)
    assert lines[0].startswith("Since epoch ")
    assert "overfitting" in lines[0]
    assert lines[1].startswith("The penalty on `hidden` is too weak to matter")
    assert capsys.readouterr().out == "\n".join(lines) + "\n"


def test_a_fit_with_an_l1_that_makes_no_zeros():
    (line,) = _fit(L1(0.02), keras.optimizers.Adam(0.01), 20)
    assert line == (
        "`hidden` has no exact zeros, and will have none: under a plain Adam "
        "penalties only shrink. Compile the model with "
        "kerasreg.optimizers.Proximal(Adam(...))."
    )


def test_a_fit_of_spoilt_data():
    (line,) = _fit(L2(0.02), keras.optimizers.Adam(0.01), 3, spoil=True)
    assert line.startswith("`data_loss` is NaN or infinite from epoch 1 on.")
