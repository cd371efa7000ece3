"""`bayesianize`: which layers, with which arguments, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers as L

from kerasreg.layers import BayesianDense, DropConnect, bayesianize, sampling
from kerasreg.regularizers import Prior

X = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
N = 100  # examples


def nested():
    return keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(4, name="first"),
            L.Reshape((4, 1)),
            L.Conv1D(2, 2, name="conv"),
            L.Flatten(),
            keras.Sequential([L.Dense(3, name="a"), L.Dense(2, name="b")], name="head"),
        ],
        name="net",
    )


def changed(model):
    """The names of the layers with a posterior."""
    return [y.name for y in model._flatten_layers() if hasattr(y, "divergences")]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (None, {"first", "conv", "a", "b"}),
        ("first", {"first"}),
        ("?", {"a", "b"}),
        ("head", {"a", "b"}),  # what it lies in
        (L.Dense, {"first", "a", "b"}),
        (L.Conv1D, {"conv"}),
        (["conv", "f*"], {"first", "conv"}),
        (("b", L.Conv1D), {"conv", "b"}),
    ],
    ids=["all", "name", "glob", "above", "class", "convs", "list", "tuple"],
)
def test_layers(keys, names):
    model = nested()
    bayesian = bayesianize(model, N, layers=keys)
    assert set(changed(bayesian)) == names
    np.testing.assert_array_equal(bayesian(X), model(X))
    kept = {type(y) for y in bayesian._flatten_layers() if y.name in {"first", "a"}}
    assert (L.Dense in kept) == (not {"first", "a"} <= names)


def test_calls_can_be_chained():
    model = bayesianize(nested(), N, layers="head", prior="Laplace")
    model = bayesianize(model, 2 * N, layers="first", estimator="reparameterization")
    assert set(changed(model)) == {"first", "a", "b"}
    first, a = model.get_layer("first"), model.get_layer("head").get_layer("a")
    assert (first.num_examples, first.estimator) == (2 * N, "reparameterization")
    assert (a.num_examples, a.estimator) == (N, "flipout")
    assert a.prior.get_config()["distribution"] == "Laplace"


def test_priors_by_layer():
    wide = Prior("Normal", params={"scale": 2.0})
    priors = {"*": "Cauchy", L.Dense: "Laplace", "b": wide}
    model = bayesianize(nested(), N, prior=priors)
    head = model.get_layer("head")
    names = [
        layer.prior.get_config()["distribution"]
        for layer in (model.get_layer("conv"), head.get_layer("a"), head.get_layer("b"))
    ]
    assert names == ["Cauchy", "Laplace", "Normal"]
    assert head.get_layer("b").prior is wide
    model = bayesianize(nested(), N, prior={"conv": "Laplace"})
    assert model.get_layer("first").prior.get_config()["distribution"] == "Normal"
    config = keras.saving.serialize_keras_object(wide)
    model = bayesianize(nested(), N, prior=config)
    assert model.get_layer("first").prior.get_config()["params"]["scale"] == 2.0


def test_arguments():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(4, use_bias=False, name="a"),
            L.Dense(2, name="b"),
        ]
    )
    bayesian = bayesianize(
        model,
        N,
        estimator="local_reparameterization",
        initial_scale=0.1,
        bayesian_bias=True,
        bias_prior="Laplace",
        kl_strength=0.5,
        kl_samples=3,
    )
    a, b = bayesian.layers
    assert (a.bayesian_bias, b.bayesian_bias) == (False, True)
    assert b.bias_prior.get_config()["distribution"] == "Laplace"
    for layer in (a, b):
        assert (layer.num_examples, layer.kl_strength, layer.kl_samples) == (N, 0.5, 3)
        assert layer.estimator == "local_reparameterization"
        scale = layer.kernel_posterior.stddev().numpy()
        np.testing.assert_allclose(scale, 0.1, rtol=1e-6)
    assert bayesianize(model).layers[0].num_examples is None


def test_seeds():
    model = keras.Sequential([keras.Input((5,)), L.Dense(5), L.Dense(5)])
    first, second = (bayesianize(model, N, seed=7) for _ in range(2))
    with sampling():
        np.testing.assert_array_equal(first(X), second(X))
        noise = [
            layer(X) - plain(X)
            for layer, plain in zip(
                bayesianize(model, N, seed=7).layers, model.layers, strict=True
            )
        ]
    assert np.all(noise[0] != noise[1])  # each layer has its own


def test_a_prior_of_a_distribution_object():
    """It cannot be saved, and need not be to copy the model."""
    tfp = pytest.importorskip("tensorflow_probability")
    mixture = tfp.distributions.MixtureSameFamily(
        tfp.distributions.Categorical(probs=[0.5, 0.5]),
        tfp.distributions.Normal([0.0, 0.0], [1.0, 0.1]),
    )
    bayesian = bayesianize(nested(), N, prior=mixture, layers="head")
    assert all(np.isfinite(loss) for loss in bayesian.losses)


MATCHES_NONE = (
    "Invalid value for argument `{}`. Expected a name, glob or class of layers that "
    "can become Bayesian: ['first', 'conv', 'a', 'b']. Received: {!r}, which matches "
    "none"
)


@pytest.mark.parametrize("key", ["second", "reshape*", L.Flatten])
def test_a_key_that_matches_nothing(key):
    for arguments in ({"layers": ["first", key]}, {"prior": {key: "Laplace"}}):
        with pytest.raises(ValueError) as caught:
            bayesianize(nested(), N, **arguments)
        assert str(caught.value) == MATCHES_NONE.format(*arguments, key)


def test_keys_of_the_wrong_kind():
    with pytest.raises(TypeError) as caught:
        bayesianize(nested(), N, layers=3)
    assert str(caught.value) == (
        "Invalid value for argument `layers`. Expected glob patterns of names and "
        "layer classes. Received: 3"
    )


def test_unknown_arguments():
    with pytest.raises(TypeError) as caught:
        bayesianize(nested(), N, units=3, initial_scale=0.1)
    assert str(caught.value) == (
        "`bayesianize` got unexpected arguments. Expected some of ['prior', "
        "'bias_prior', 'bayesian_bias', 'estimator', 'initial_scale', 'kl_samples', "
        "'num_examples', 'kl_strength', 'seed']. Received: ['units']"
    )


def test_arguments_of_the_layers_are_checked_there():
    with pytest.raises(ValueError, match=r"`num_examples`\. Expected a finite number"):
        bayesianize(nested(), 0)
    recurrent = keras.Sequential([keras.Input((None, 5)), L.LSTM(3)])
    with pytest.raises(ValueError, match="other noise at each time step"):
        bayesianize(recurrent, N, estimator="local_reparameterization")


def test_no_such_layers():
    model = keras.Sequential([keras.Input((5,)), L.BatchNormalization()], name="m")
    with pytest.raises(ValueError) as caught:
        bayesianize(model, N)
    assert str(caught.value) == (
        "Invalid value for argument `model`. Expected a model with at least one layer "
        "of ['Dense', 'Conv1D', 'Conv2D', 'Conv3D', 'Embedding', 'LSTM', 'GRU']. "
        f"Received: model={model!r}"
    )
    once = bayesianize(keras.Sequential([keras.Input((5,)), L.Dense(2)]), N)
    with pytest.raises(ValueError, match="with at least one layer of"):
        bayesianize(once, N)


def test_not_a_built_model():
    with pytest.raises(ValueError, match=r"Expected a built model \(call it on data"):
        bayesianize(keras.Sequential([L.Dense(2)]), N)
    with pytest.raises(TypeError, match=r"Expected a keras\.Model or"):
        bayesianize("model", N)


def test_quantized_layers():
    model = keras.Sequential([keras.Input((5,)), L.Dense(2, name="d")])
    model.layers[0].quantize("int8")
    with pytest.raises(ValueError) as caught:
        bayesianize(model, N)
    assert str(caught.value) == (
        "Invalid value for argument `model`. Expected layers whose weights can be "
        "trained. Received: the layer 'd', which is quantized"
    )


class Subclassed(keras.Model):
    def __init__(self, name):
        super().__init__(name=name)
        self.hidden = L.Dense(3, name="hidden")

    def call(self, inputs):
        return self.hidden(inputs) + 1.0


@pytest.mark.parametrize("inside", [False, True])
def test_subclassed_models(inside):
    model = Subclassed("mine")
    model(X)
    if inside:
        inputs = keras.Input((5,))
        model = keras.Model(inputs, model(inputs))
    with pytest.raises(ValueError) as caught:
        bayesianize(model, N)
    assert str(caught.value) == (
        "Invalid value for argument `model`. Expected Sequential and functional "
        "models. Received: the model 'mine' of class Subclassed, whose `call` cannot "
        "be rewritten from outside. Write it with Bayesian layers in the places of "
        "['hidden'], or leave these out by the argument `layers`."
    )


def test_wrappers_around():
    """What another layer does with the weights of a layer inside, is not known."""
    model = keras.Sequential(
        [
            keras.Input((5,)),
            DropConnect(L.Dense(3, name="inner"), 0.5, name="outer"),
            L.Dense(2, name="last"),
        ]
    )
    with pytest.raises(ValueError, match=r"the layer 'outer' of class DropConnect"):
        bayesianize(model, N)
    bayesian = bayesianize(model, N, layers="last")
    assert type(bayesian.layers[0]) is DropConnect
    np.testing.assert_array_equal(bayesian(X), model(X))


def test_subclasses_of_layers_are_copied():
    class Doubled(L.Dense):
        def call(self, inputs, training=None):
            return 2.0 * super().call(inputs)

    model = keras.Sequential([keras.Input((5,)), Doubled(3), L.Dense(2)])
    bayesian = bayesianize(model, N)
    assert [type(layer) for layer in bayesian.layers] == [Doubled, BayesianDense]
    np.testing.assert_array_equal(bayesian(X), model(X))
