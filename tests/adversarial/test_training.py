"""The objectives of AdversarialModel, and what of it is Keras's."""

import keras
import numpy as np
import pytest

from kerasreg.adversarial import FGSM, PGD, VAT, AdversarialModel, Noise
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, penalties_of
from tests.adversarial import models

OBJECTIVES = {
    "adversarial": PGD(0.1, steps=2),
    "mixed": FGSM(0.1),
    "trades": PGD(0.1, steps=2),
    "vat": VAT(0.1),
}
objectives = pytest.mark.parametrize("objective", OBJECTIVES)


def data(rows=32):
    rng = np.random.default_rng(0)
    x = rng.random((rows, 4)).astype("float32")
    return x, (x[:, 0] > x[:, 1]).astype("int32")


def net(penalty=None, activity=None, classes=2):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                6,
                "tanh",
                name="hidden",
                kernel_regularizer=penalty,
                activity_regularizer=activity,
            ),
            keras.layers.Dense(classes, dtype="float32"),
        ]
    )


def robust(objective="adversarial", model=None, optimizer="sgd", cls=None, **arguments):
    compiled = {
        name: arguments.pop(name)
        for name in ("jit_compile", "metrics", "steps_per_execution")
        if name in arguments
    }
    attack = arguments.pop("attack", OBJECTIVES[objective])
    cls = AdversarialModel if cls is None else cls
    built = cls(model or net(), attack, objective, **arguments)
    built.compile(optimizer, models.logits_loss(), **compiled)
    return built


def fit(model, **arguments):
    arguments = {"epochs": 2, "batch_size": 8, "shuffle": False, **arguments}
    return model.fit(*data(), verbose=0, **arguments).history


class Fixed(Noise):
    """Adds one number to all features, whatever the model."""

    random_start = True

    def perturb(self, problem, seed):
        return [space.constrain(0 * space.x + self.eps) for space in problem.spaces]


def kl(z, other):
    """Of each row, with independent arithmetic in float64."""
    p, q = (np.exp(a - a.max(1, keepdims=True)) for a in (z, other))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return np.sum(p * np.log(p / q), axis=1)


@pytest.mark.parametrize("weights", [None, np.linspace(0, 2, 32)])
@objectives
def test_loss_by_hand(objective, weights):
    """A linear model, a known perturbation, a penalty: all numbers are known."""
    keras.utils.set_random_seed(1)
    layer = keras.layers.Dense(2, kernel_regularizer=L2(0.3))
    inner = keras.Sequential([keras.Input((4,)), layer])
    model = robust(objective, inner, attack=Fixed(0.4), weight=0.7)
    (x, y), kernel = data(), layer.kernel.numpy().astype("float64")
    z, moved = x @ kernel, (x + 0.4) @ kernel
    w = np.ones(32) if weights is None else weights

    def loss(z):
        return np.mean(w * (np.log(np.exp(z).sum(1)) - z[np.arange(32), y]))

    penalty = 0.3 * np.sum(kernel**2)
    spread = np.mean((w if objective == "trades" else 1.0) * kl(z, moved))
    expected = {
        "adversarial": loss(moved),
        "mixed": 0.3 * loss(z) + 0.7 * loss(moved),
        "trades": loss(z) + 0.7 * spread,
        "vat": loss(z) + 0.7 * spread,
    }[objective]
    history = fit(model, epochs=1, batch_size=32, sample_weight=weights)
    logged = {
        "clean_loss": loss(z),
        "adversarial_loss": loss(moved),
        "divergence": spread,
        "loss": expected + penalty,
    }
    names = {
        "adversarial": {"adversarial_loss"},
        "mixed": {"clean_loss", "adversarial_loss"},
    }
    assert history.keys() == names.get(objective, {"clean_loss", "divergence"}) | {
        "loss"
    }
    for name, (value,) in history.items():
        assert value == pytest.approx(logged[name], rel=1e-4), name


@objectives
def test_gradient_of_the_loss_by_differences(objective):
    """SGD with rate 1 shows the gradient: δ is a constant in it, for VAT f(x) too."""
    kernel = np.array([[0.5, -0.2], [0.1, 0.3], [-0.4, 0.2], [0.0, 0.6]])
    layer = keras.layers.Dense(2, use_bias=False)
    inner = keras.Sequential([keras.Input((4,)), layer])
    inner.set_weights([kernel])
    model = robust(objective, inner, keras.optimizers.SGD(1.0), attack=Fixed(0.4))
    x, y = data()
    fit(model, epochs=1, batch_size=32)
    found = kernel - layer.kernel.numpy()
    weight = {"mixed": 0.5}.get(objective, 1.0)

    def total(k):
        z, moved = x @ k, (x + 0.4) @ k

        def loss(z):
            return np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(32), y])

        if objective == "adversarial":
            return loss(moved)
        if objective == "mixed":
            return (1 - weight) * loss(z) + weight * loss(moved)
        held = z if objective == "trades" else x @ kernel
        return loss(z) + np.mean(kl(held, moved))

    for i, j in np.ndindex(*kernel.shape):
        step = np.zeros_like(kernel)
        step[i, j] = 1e-5
        slope = (total(kernel + step) - total(kernel - step)) / 2e-5
        assert found[i, j] == pytest.approx(slope, abs=2e-5)


def test_activity_regularizers_count_once():
    """Of the pass whose loss it is; nothing is left from the attack's."""
    history = {}
    for activity in (None, keras.regularizers.L2(0.5)):
        for objective in ("adversarial", "mixed"):
            model = robust(objective, net(activity=activity), attack=Fixed(0.0))
            history[objective, activity is None] = fit(model, epochs=1, batch_size=32)
    hidden = net().get_layer("hidden")(data()[0]).numpy()
    for objective in ("adversarial", "mixed"):
        added = (
            history[objective, False]["loss"][0] - history[objective, True]["loss"][0]
        )
        assert added == pytest.approx(0.5 * np.sum(hidden**2) / 32, rel=1e-4)


def test_pgd_works_with_layers_that_add_losses():
    model = robust("trades", net(activity="l2"), jit_compile=False)
    assert np.all(np.isfinite(fit(model)["loss"]))
    moved = PGD(0.1, loss=models.logits_loss())(model.model, *data())
    assert np.all(np.isfinite(moved))


@pytest.mark.parametrize(
    ("objective", "jit_compile"),
    [("adversarial", True), ("mixed", False), ("trades", True), ("vat", False)],
)
def test_one_trace_and_a_falling_loss(objective, jit_compile):
    class Traced(AdversarialModel):
        traces = 0

        def train_step(self, data):
            type(self).traces += 1
            return super().train_step(data)

    optimizer = keras.optimizers.Adam(0.05)
    model = robust(objective, None, optimizer, Traced, every=2, jit_compile=jit_compile)
    optimizer.build(model.trainable_variables)  # Keras traces again where it is not
    history = fit(model, epochs=8)
    assert Traced.traces == 1
    assert history["loss"][-1] < history["loss"][0]


def test_the_same_with_xla_and_without():
    runs = [fit(robust("vat", jit_compile=jit)) for jit in (False, True)]
    for name, values in runs[0].items():
        np.testing.assert_allclose(values, runs[1][name], rtol=1e-3)


def test_every():
    """Only every third batch is attacked: the others' loss is the plain one."""
    losses = {}
    for every in (1, 3):
        model = robust(
            attack=Fixed(5.0), every=every, optimizer=keras.optimizers.SGD(0.0)
        )
        losses[every] = [
            model.train_on_batch(*data(), return_dict=True)["loss"] for _ in range(6)
        ]
    first, *_ = losses[1]
    plain = net()
    plain.compile(loss=models.logits_loss())
    clean = plain.evaluate(*data(), verbose=0)
    np.testing.assert_allclose(losses[3], [first, clean, clean] * 2, rtol=1e-5)
    np.testing.assert_allclose(losses[1], first, rtol=1e-5)


def test_the_weight_turns_in_a_running_fit():
    model = robust("trades", attack=Fixed(1.0), weight=0.0)
    turn = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(model, "weight", float(epoch))
    )
    h = fit(model, epochs=3, batch_size=32, callbacks=[turn])
    for epoch in range(3):
        expected = h["clean_loss"][epoch] + epoch * h["divergence"][epoch]
        assert h["loss"][epoch] == pytest.approx(expected, rel=1e-5)
    assert model.weight == 2.0


def test_penalties_and_proximal():
    """Penalties are those of the inner model; zeros are exact."""
    inner = net(L1(0.05))
    model = robust("mixed", inner, Proximal(keras.optimizers.Adam(0.02)))
    fit(model, epochs=20)
    (penalty,) = penalties_of(model).values()
    assert penalty is inner.get_layer("hidden").kernel.regularizer
    assert np.mean(inner.get_layer("hidden").kernel.numpy() == 0) > 0.2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"objective": "robust"},
            ValueError,
            "Invalid value for argument `objective`. Expected one of ('adversarial', "
            "'mixed', 'trades', 'vat'). Received: objective='robust'",
        ),
        (
            {"objective": "mixed", "weight": 1.5},
            ValueError,
            "Invalid value for argument `weight`. Expected a number in [0, 1] for "
            'objective="mixed". Received: weight=1.5',
        ),
        (
            {"objective": "trades", "attack": FGSM(0.1)},
            ValueError,
            "Invalid value for argument `attack`. Expected one with random_start=True "
            'for objective="trades": the divergence that it raises has no slope at x. '
            f"Received: attack={FGSM(0.1)!r}",
        ),
        (
            {"attack": "fgsm"},
            TypeError,
            "Invalid value for argument `attack`. Expected an attack such as "
            "kerasreg.adversarial.PGD. Received: attack='fgsm'",
        ),
        (
            {"every": 0},
            ValueError,
            "Invalid value for argument `every`. Expected a positive integer. "
            "Received: every=0",
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error) as caught:
        AdversarialModel(net(), **{"attack": FGSM(0.1), **arguments})
    assert str(caught.value) == message
