"""What a step of AdversarialModel trains on, and what `fit` looks at beforehand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.adversarial import FGSM, PGD, VAT, AdversarialModel
from kerasreg.regularizers import L2
from tests.adversarial.test_training import Fixed, data, fit, net, robust

STILL = {"epochs": 1, "batch_size": 32}
NOT_DUE = 10**6


@pytest.mark.parametrize("kind", ["arrays", "dataset", "pydataset"])
def test_fit_checks_its_data(kind):
    x, y = data()
    model = robust(attack=PGD(0.1, steps=2, bounds=(0.0, 0.5)))

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return x, y

    given = {
        "arrays": (x, y),
        "dataset": (tf.data.Dataset.from_tensors((x, y)),),
        "pydataset": (Batches(),),
    }[kind]
    with pytest.raises(ValueError, match="within the bounds"):
        model.fit(*given, verbose=0)


def test_all_of_a_large_array_is_checked():
    x, y = np.zeros((9000, 4), "float32"), np.zeros(9000, "int32")
    x[-1] = np.nan
    with pytest.raises(ValueError, match="finite numbers"):
        robust().fit(x, y, verbose=0)


def test_a_generator_loses_no_batch():
    x, y = data()
    model = robust()
    model.fit(((x, y) for _ in range(2)), steps_per_epoch=2, verbose=0)
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize("objective", ["adversarial", "vat"])
def test_targets_are_needed(objective):
    with pytest.raises(ValueError, match="argument `y`"):
        robust(objective).fit(data()[0], verbose=0)


def test_an_attack_that_is_set_or_changed_is_used_by_the_next_fit():
    model = robust(attack=Fixed(0.0), optimizer=keras.optimizers.SGD(0.0))
    losses = [fit(model, **STILL)["loss"][0]]
    model.attack.eps = 0.5
    losses.append(fit(model, **STILL)["loss"][0])
    model.attack = Fixed(1.0)
    losses.append(fit(model, **STILL)["loss"][0])
    for eps, loss in zip((0.0, 0.5, 1.0), losses, strict=True):
        x, y = data()
        expected = model.evaluate(x + np.float32(eps), y, verbose=0)
        assert loss == pytest.approx(expected, rel=1e-5)
    with pytest.raises(TypeError, match="argument `attack`"):
        model.attack = "pgd"


@pytest.mark.parametrize("attack", [VAT(0.5), PGD(0.5, steps=2)])
def test_vat_does_not_look_at_labels_of_weight_zero(attack):
    (x, y), weights = data(), np.repeat([0.0, 1.0], 16)
    ends = []
    for labels in (y, np.where(weights == 0, 1 - y, y)):
        model = robust("vat", attack=attack)
        model.fit(x, labels, 32, 2, sample_weight=weights, shuffle=False, verbose=0)
        ends.append(model.get_weights())
    for first, second in zip(*ends, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("objective", ["trades", "vat"])
def test_a_divergence_has_no_slope_at_the_input(objective):
    with pytest.raises(ValueError, match="random_start"):
        robust(objective, attack=FGSM(0.1))


@pytest.mark.parametrize("objective", ["mixed", "trades", "vat"])
def test_batches_between_attacks_are_trained_on_as_they_are(objective):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dropout(0.5), keras.layers.Dense(2)]
    inner = keras.Sequential([keras.Input((4,)), *layers])
    model = robust(objective, inner, every=NOT_DUE)
    model.optimizer.iterations.assign(1)
    logs = fit(model, **STILL)
    assert logs["loss"] == logs["clean_loss"]
    attacked = "adversarial_loss" if objective == "mixed" else "divergence"
    assert np.isnan(logs[attacked][0])


@pytest.mark.parametrize("objective", ["adversarial", "mixed", "trades"])
def test_losses_of_attacked_inputs_are_means_over_attacked_batches(objective):
    logs = []
    for every in (1, 2):
        model = robust(
            objective,
            attack=Fixed(0.5),
            every=every,
            optimizer=keras.optimizers.SGD(0.0),
        )
        x, y = data(8)
        tiled = np.tile(x, (4, 1)), np.tile(y, 4)
        logs.append(model.fit(*tiled, 8, shuffle=False, verbose=0).history)
    name = "divergence" if objective == "trades" else "adversarial_loss"
    assert logs[0][name][0] == pytest.approx(logs[1][name][0], rel=1e-6)
    assert logs[0]["loss"][0] > logs[1]["loss"][0]


def test_losses_of_single_outputs_are_of_clean_inputs():
    inputs = keras.Input((4,))
    outputs = {n: keras.layers.Dense(1, name=n)(inputs) for n in "pq"}
    x = data()[0]
    y = dict.fromkeys("pq", x[:, :1])
    model = AdversarialModel(keras.Model(inputs, outputs), Fixed(1.0), "mixed")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    logs = model.fit(x, y, 8, verbose=0).history
    expected = model.evaluate(x, y, return_dict=True, verbose=0)
    for name in ("p_loss", "q_loss"):
        assert logs[name][0] == pytest.approx(expected[name], rel=1e-5)
    assert logs["clean_loss"][0] == pytest.approx(expected["loss"], rel=1e-5)


def test_clean_loss_beside_a_large_penalty():
    model = robust("mixed", net(L2(1e7)), keras.optimizers.SGD(0.0))
    logs = fit(model, **STILL)
    plain = net()
    plain.compile(loss=model.loss)
    expected = plain.evaluate(*data(), verbose=0)
    assert logs["clean_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert logs["loss"][0] > 1e7


def test_inputs_reach_the_model_within_as_they_are():
    keras.config.set_dtype_policy("mixed_float16")
    x = np.array([[1e5], [2049.0], [5001.0]], "float32")
    scale = keras.layers.Rescaling(1e-3, dtype="float32")
    inner = keras.Sequential([keras.Input((1,)), scale, keras.layers.Dense(1)])
    model = robust("mixed", inner)
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), inner.predict(x, verbose=0)
    )
    again = AdversarialModel.from_config(model.get_config())
    assert again.dtype_policy.name == "mixed_float16"


@pytest.mark.parametrize("objective", ["mixed", "trades", "vat"])
def test_double_precision(objective):
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        assert np.isfinite(fit(robust(objective), **STILL)["loss"][0])
    finally:
        keras.config.set_floatx(before)


class OwnStep(keras.Sequential):
    def compute_loss(self, *args, **kwargs):
        return 10 * super().compute_loss(*args, **kwargs)


def test_a_training_of_the_model_s_own_is_not_used():
    with pytest.warns(UserWarning, match="OwnStep has a `train_step`"):
        AdversarialModel(OwnStep([keras.layers.Dense(2)]), PGD(0.1))


def test_arguments():
    with pytest.raises(TypeError, match="argument `model`"):
        AdversarialModel(robust(), PGD(0.1))
    with pytest.raises(TypeError, match="argument `seed`"):
        robust(seed="a")
    model = robust("mixed")
    with pytest.raises(ValueError, match=r"number in \[0, 1\]"):
        model.weight = 2.0
