"""AdversarialModel and Keras: saving, precision, devices, BatchNorm, text."""

import zipfile

import keras
import numpy as np
import pytest

from kerasreg.adversarial import FGSM, PGD, VAT, AdversarialModel, perturbed
from tests.adversarial import models
from tests.adversarial.test_training import Fixed, data, fit, net, robust


def full_attack():
    low = np.array([-1.0, 0, 0, 0])
    return PGD(0.1, 2, bounds=(low, 1.0), scale=[1, 2, 1, 1], mask=[1, 1, 1, 0])


@pytest.mark.parametrize("objective", ["adversarial", "trades", "vat"])
def test_save_and_load(objective, tmp_path):
    """It goes on where it stopped, but for random numbers, which begin anew."""
    attack = VAT(0.1) if objective == "vat" else full_attack()
    model = robust(objective, optimizer="adam", attack=attack, every=2, weight=0.3)
    fit(model)
    model.weight = 0.4
    model.save(tmp_path / "robust.keras")
    loaded = keras.saving.load_model(tmp_path / "robust.keras")
    assert isinstance(loaded, AdversarialModel)
    assert loaded.weight == pytest.approx(0.4)
    assert repr(loaded.attack) == repr(attack)
    np.testing.assert_array_equal(loaded.predict(data()[0]), model.predict(data()[0]))
    model._generator.state.assign(loaded._generator.state)
    assert fit(loaded) == fit(model)


def test_the_inner_model_needs_no_kerasreg(tmp_path):
    model = robust()
    fit(model)
    model.model.save(tmp_path / "inner.keras")
    with zipfile.ZipFile(tmp_path / "inner.keras") as archive:
        assert b"kerasreg" not in archive.read("config.json")
    loaded = keras.saving.load_model(tmp_path / "inner.keras")
    np.testing.assert_array_equal(loaded(data()[0]), model(data()[0]))


def test_evaluate_and_predict_are_the_inner_models():
    model = robust(metrics=["accuracy"])
    fit(model)
    inner = model.model
    inner.compile(loss=models.logits_loss(), metrics=["accuracy"])
    found, expected = (m.evaluate(*data(), verbose=0) for m in (model, inner))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("objective", "policy"),
    [
        ("adversarial", "mixed_float16"),
        ("trades", "mixed_float16"),
        ("vat", "mixed_bfloat16"),
    ],
)
def test_half_precision(objective, policy):
    keras.config.set_dtype_policy(policy)
    model = robust(objective, net(), keras.optimizers.Adam(0.02))
    history = fit(model, epochs=6)
    assert history["loss"][-1] < history["loss"][0]
    assert np.all(np.isfinite(history["loss"]))


@pytest.mark.parametrize("objective", ["mixed", "trades"])
def test_two_devices(objective, two_cpus):
    """The same numbers as on one device."""
    runs = []
    for scope in (None, two_cpus):
        arguments = {"attack": Fixed(0.3), "jit_compile": False, "weight": 0.6}
        if scope is None:
            model = robust(objective, **arguments)
        else:
            with scope.scope():
                model = robust(objective, **arguments)
        weights = np.linspace(0, 2, 32)
        runs.append((fit(model, sample_weight=weights), model.model.get_weights()))
    for name, values in runs[0][0].items():
        np.testing.assert_allclose(runs[1][0][name], values, rtol=1e-4)
    for a, b in zip(runs[0][1], runs[1][1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_replicas_draw_their_own_noise(two_cpus):
    with two_cpus.scope():
        model = robust(attack=PGD(0.1), jit_compile=False)
    assert np.all(np.isfinite(fit(model)["loss"]))


def batch_norm(momentum=0.5):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(momentum=momentum),
            keras.layers.Dropout(0.5, seed=3),
            keras.layers.Dense(2),
        ]
    )


@pytest.mark.parametrize("objective", ["adversarial", "mixed"])
def test_batch_norm_sees_the_batches_that_enter_the_loss(objective):
    """Moving means by hand: the attack's passes leave no trace."""
    x, mean = data()[0].mean(axis=0), 0.0
    inner = batch_norm()
    model = robust(objective, inner, attack=Fixed(0.4))
    fit(model, epochs=1, batch_size=32)
    passes = [x + 0.4] if objective == "adversarial" else [x, x + 0.4]
    for batch in passes:
        mean = 0.5 * mean + 0.5 * batch
    np.testing.assert_allclose(inner.layers[0].moving_mean, mean, rtol=1e-5)


def test_an_attack_draws_no_dropout():
    """The generator of Dropout moves on once a pass in training mode."""
    inner = batch_norm()
    model = robust("mixed", inner, attack=PGD(0.1, steps=4))
    fit(model, epochs=1, batch_size=32)
    state = inner.layers[1].seed_generator.state.numpy()
    np.testing.assert_array_equal(state, [3, 2])


@pytest.mark.parametrize(("objective", "every"), [("adversarial", 2), ("vat", 1)])
def test_text(objective, every):
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.layers.Embedding(20, 4),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    x = np.random.default_rng(0).integers(0, 20, (16, 7))
    y = (x[:, 0] > 9).astype("float32")
    inner(x)
    attack = (
        VAT(0.5, on="embedding") if objective == "vat" else PGD(0.5, on="embedding")
    )
    model = AdversarialModel(inner, attack, objective, every=every)
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    history = model.fit(x, y, epochs=8, batch_size=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    name = "adversarial_loss" if objective == "adversarial" else "divergence"
    assert history[name][0] > 0


def test_dict_inputs_and_several_outputs():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    outputs = {
        "p": keras.layers.Dense(1, name="p")(joined),
        "q": keras.layers.Dense(3, name="q")(joined),
    }
    inner = keras.Model({"a": a, "b": b}, outputs)
    rng = np.random.default_rng(0)
    x = {"a": rng.random((16, 3)), "b": rng.random((16, 2))}
    y = {"p": rng.random((16, 1)), "q": rng.integers(0, 3, 16)}
    weight = {"p": np.ones(16), "q": np.linspace(0, 1, 16)}
    losses = {"p": "mse", "q": models.logits_loss()}
    model = AdversarialModel(inner, PGD(0.1, steps=2), "trades")
    model.compile("sgd", losses, loss_weights={"p": 2.0, "q": 0.5})
    h = model.fit(x, y, epochs=1, verbose=0, sample_weight=weight).history
    assert h["loss"][0] == pytest.approx(h["clean_loss"][0] + h["divergence"][0])


def test_training_makes_a_model_more_robust():
    train, (x, y) = models.digits()
    attack = PGD(0.15, bounds=(0, 1), steps=10)
    robustness = {}
    for objective in ("plain", "trades"):
        inner = models.classifier()
        model = inner
        if objective != "plain":
            fast = FGSM(0.15, bounds=(0, 1), random_start=True)
            model = AdversarialModel(inner, fast, objective, weight=2.0)
            model.compile(keras.optimizers.Adam(0.01), models.logits_loss())
        model.fit(*train, epochs=10, batch_size=100, verbose=0)
        moved = attack(inner, x, y)
        robustness[objective] = inner.evaluate(moved, y, verbose=0)[1]
    assert robustness["trades"] > robustness["plain"] + 0.2


def test_labels_are_not_needed_by_vat():
    """Examples of weight 0 still regularize."""
    x, _ = data()
    model = robust("vat", attack=Fixed(0.5))
    h = fit(model, epochs=1, sample_weight=np.zeros(32))
    assert h["clean_loss"][0] == 0
    assert h["divergence"][0] > 0
    with perturbed(model.model.layers[0], np.ones((1, 6))):
        assert model(x).shape == (32, 2)
