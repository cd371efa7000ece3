"""`Hypergradient`: its arguments, its memory, its batches, its steps."""

import json

import keras
import numpy as np
import pytest

from kerasreg.callbacks import Hypergradient, State, Unit
from kerasreg.callbacks.policies.base import next_strengths
from kerasreg.regularizers import L2
from tests.models import data, model


def policy(**arguments):
    return Hypergradient(data(), data(20), **{"burn_in": 0, **arguments})


def state(step=0, **slopes):
    units = {
        name: Unit(strength=0.01, extra={"hypergradient": slope})
        for name, slope in slopes.items()
    }
    return State(units, step=step)


def units_of(built):
    return {"hidden": [built.get_layer("hidden").kernel]}


class TestSteps:
    def test_adam_on_the_logarithm(self):
        """The steps of `keras.optimizers.Adam` on log strengths."""
        slopes = np.random.default_rng(0).normal(size=(6, 2)) * [1.0, 1e-4]
        theirs = keras.Variable(np.log([0.01, 0.5]), dtype="float64")
        adam = keras.optimizers.Adam(0.05, epsilon=1e-12)
        ours, one = {"a": 0.01, "b": 0.5}, policy()
        for first, second in slopes:
            adam.apply([keras.ops.array([first, second], "float64")], [theirs])
            units = {
                "a": Unit(ours["a"], extra={"hypergradient": first}),
                "b": Unit(ours["b"], extra={"hypergradient": second}),
            }
            ours = one.update(State(units))
        np.testing.assert_allclose(list(ours.values()), np.exp(theirs), rtol=1e-6)

    def test_the_scale_of_the_loss_does_not_matter(self):
        small, large = policy().update(state(a=1e-6)), policy().update(state(a=1e3))
        assert small["a"] == pytest.approx(large["a"], rel=1e-6)
        assert small["a"] == pytest.approx(0.01 * np.exp(-0.05), rel=1e-6)

    def test_burn_in(self):
        one = policy(burn_in=100)
        before = one.get_state()
        assert one.update(state(step=99, a=1.0)) == {}
        assert one.get_state() == before
        assert one.update(state(step=100, a=1.0)).keys() == {"a"}

    def test_zero_stays(self):
        units = {"a": Unit(0.0, extra={"hypergradient": 1.0})}
        assert policy().update(State(units)) == {}

    def test_not_finite(self):
        one = policy()
        one.update(state(a=1.0))
        before = one.get_state()
        assert next_strengths(one, state(a=float("nan"))) is None
        assert one.get_state() == before

    def test_needs_what_was_measured(self):
        with pytest.raises(ValueError) as error:
            policy().update(State({"a": Unit(0.01, extra={"other": 1.0})}))
        assert str(error.value) == (
            "`Hypergradient.update` needs what `measure` returns. Expected a "
            "hypergradient in `extra` of the unit 'a'. Received: extra={'other': 1.0}"
        )

    def test_update_needs_no_data(self):
        server = Hypergradient(None, None, burn_in=0)
        assert server.update(state(a=1.0)) == policy().update(state(a=1.0))


class TestMemory:
    def test_round_trip(self):
        """A policy with the state of another goes on as that one does, batches too."""
        built = model(L2(0.01))
        straight, resumed = policy(batch_size=8), policy(batch_size=8)

        def step(one):
            extra = one.measure(built, units_of(built))["hidden"]
            return one.update(State({"hidden": Unit(0.01, extra=extra)}))

        step(straight), step(straight)
        resumed.set_state(json.loads(json.dumps(straight.get_state())))
        for _ in range(2):
            assert step(resumed) == step(straight)
        assert resumed.get_state() == straight.get_state()

    def test_state_is_a_copy(self):
        one = policy()
        one.update(state(a=1.0))
        kept = one.get_state()
        copied = json.loads(json.dumps(kept))
        one.update(state(a=2.0))
        assert kept == copied


class TestBatches:
    def drawn(self, one, times=1):
        """The first feature of the samples of each batch, of either data."""
        return [[part[0][:, 0].tolist() for part in one._draw()] for _ in range(times)]

    def test_all_data_by_default(self):
        train, validation = policy()._draw()
        np.testing.assert_array_equal(train[0], data()[0])
        np.testing.assert_array_equal(validation[1], data(20)[1])

    def test_anew_for_each_update(self):
        (first, other), (second, _) = self.drawn(policy(batch_size=8), 2)
        assert len(set(first)) == len(set(second)) == len(set(other)) == 8
        assert set(first) != set(second)
        assert set(other) <= set(data(20)[0][:, 0].tolist())

    def test_seeded(self):
        first, same, other = (policy(batch_size=8, seed=s) for s in (1, 1, 2))
        draws = self.drawn(first, 3)
        assert draws == self.drawn(same, 3)
        assert draws != self.drawn(other, 3)

    def test_rows_belong_together(self):
        x = np.arange(10.0)[:, None]
        pair = ({"a": x, "b": [x, x]}, x.ravel().tolist(), x[:, 0] * 2)
        one = Hypergradient(pair, (x, x), batch_size=4)
        (inputs, y, weight), _ = one._draw()
        assert len(y) == 4
        np.testing.assert_array_equal(inputs["a"][:, 0], y)
        np.testing.assert_array_equal(inputs["b"][1][:, 0], y)
        np.testing.assert_array_equal(weight, 2 * y)

    def test_batches_larger_than_the_data(self):
        train, validation = policy(batch_size=30)._draw()
        assert (len(train[0]), len(validation[0])) == (30, 20)

    def test_their_mean_is_the_whole(self):
        """In first order the batch is not in the penalty, so its mean is unbiased."""
        built = model(L2(0.1))
        settings = {"mode": "first_order", "batch_size": 1}
        one = Hypergradient(data(), data(4), **settings)
        found = [one.measure(built, units_of(built)) for _ in range(30)]
        slopes = np.array([each["hidden"]["hypergradient"] for each in found])
        whole = Hypergradient(data(), data(4), mode="first_order")
        expected = whole.measure(built, units_of(built))["hidden"]["hypergradient"]
        error = slopes.std() / np.sqrt(len(slopes))
        assert abs(slopes.mean() - expected) < 4 * error  # 6e-5 of false alarms


X, Y = data()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"terms": 0},
            ValueError,
            "Invalid value for argument `terms`. Expected a positive integer. "
            "Received: terms=0",
        ),
        (
            {"mode": "exact"},
            ValueError,
            "Invalid value for argument `mode`. Expected one of ('implicit', "
            "'conjugate_gradient', 'first_order'). Received: mode='exact'",
        ),
        (
            {"step_size": 0},
            ValueError,
            "Invalid value for argument `step_size`. Expected a finite number greater "
            "than 0. Received: step_size=0",
        ),
        (
            {"learning_rate": -1.0},
            ValueError,
            "Invalid value for argument `learning_rate`. Expected a finite number "
            "greater than 0. Received: learning_rate=-1.0",
        ),
        (
            {"batch_size": 2.5},
            TypeError,
            "Invalid value for argument `batch_size`. Expected a positive integer. "
            "Received: batch_size=2.5",
        ),
        (
            {"burn_in": -1},
            ValueError,
            "Invalid value for argument `burn_in`. Expected a non-negative finite "
            "number. Received: burn_in=-1",
        ),
        (
            {"seed": -1},
            ValueError,
            "Invalid value for argument `seed`. Expected a non-negative integer. "
            "Received: seed=-1",
        ),
        (
            {"train_data": X},
            TypeError,
            "Invalid value for argument `train_data`. Expected (x, y) or (x, y, "
            "sample_weight). Received: train_data of type ndarray",
        ),
        (
            {"train_data": (X, Y[:-1])},
            ValueError,
            "Invalid value for argument `train_data`. Expected the same positive "
            "number of samples in all of its arrays. Received: "
            "{'x[0]': 32, 'y[0]': 31}",
        ),
        (
            {"validation_data": (X[:0], Y[:0])},
            ValueError,
            "Invalid value for argument `validation_data`. Expected the same positive "
            "number of samples in all of its arrays. Received: {'x[0]': 0, 'y[0]': 0}",
        ),
        (
            {"validation_data": (X, "labels")},
            TypeError,
            "Invalid value for argument `validation_data`. Expected numeric arrays "
            "with one row a sample. Received: y of type str",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_arguments(arguments, kind, message):
    given = {"train_data": (X, Y), "validation_data": (X, Y), **arguments}
    with pytest.raises(kind) as error:
        Hypergradient(**given)
    assert str(error.value) == message


class TestCheck:
    def test_missing_data(self):
        built = model(L2(0.01))
        with pytest.raises(ValueError) as error:
            Hypergradient((X, Y), None).check(built, units_of(built))
        assert str(error.value) == (
            "Invalid value for argument `validation_data`. Expected (x, y) or (x, y, "
            "sample_weight) to measure hypergradients. Received: validation_data=None"
        )

    def test_not_compiled(self):
        hidden = keras.layers.Dense(1, kernel_regularizer=L2(0.01), name="hidden")
        built = keras.Sequential([keras.Input((6,)), hidden])
        with pytest.raises(ValueError) as error:
            policy().measure(built, units_of(built))
        assert str(error.value) == (
            "Invalid value for argument `model`. Expected a compiled model: call "
            f"`model.compile(loss=...)` first. Received: model={built!r}"
        )

    def test_zero_strength(self):
        built = model(L2(0.0))
        with pytest.raises(ValueError) as error:
            policy().check(built, units_of(built))
        assert str(error.value) == (
            "`Hypergradient` moves the logarithm of a strength. Expected positive "
            "strengths. Received: strength 0 of the units ['hidden']"
        )

    def test_step_too_long(self):
        built = model(L2(0.01))
        with pytest.warns(UserWarning, match="Neumann") as record:
            found = policy(step_size=1e3).measure(built, units_of(built))
        assert np.isfinite(found["hidden"]["hypergradient"])
        assert str(record[0].message) == (
            "The Neumann series ended after 0 of 20 terms, which would have grown: "
            "step_size=1000 is too long, or the weights are not near a minimum."
        )


def test_repr():
    assert repr(policy(terms=5)) == (
        "Hypergradient(mode='implicit', terms=5, step_size=None, learning_rate=0.05, "
        "batch_size=None, burn_in=0.0, seed=0)"
    )
