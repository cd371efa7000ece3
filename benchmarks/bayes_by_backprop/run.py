"""Bayes by Backprop, 784-400-400-10 on MNIST: see README.md."""

import math
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import mnist
import numpy as np
from sklearn.metrics import roc_auc_score

from kerasreg import uncertainty
from kerasreg.layers import BayesianDense, prune_by_snr
from kerasreg.regularizers import Prior, penalties_of
from kerasreg.regularizers.divergence import Divergence

UNITS = (400, 400, 10)
BATCH = 128
STEPS = 469  # an epoch
EPOCHS = 20
SAMPLES = 50
SHARES = (0.5, 0.75, 0.95, 0.98)  # pruned
SAMPLED = (keras.layers.Dropout, BayesianDense)
GAUSSIAN = {"scale": 0.1}
MIXTURE = {"pi": 0.5, "sigma1": math.exp(-2), "sigma2": math.exp(-6)}
# Of the nets as in the paper, chosen on held-out images: see README.md.
PAPER_GAUSSIAN = {"scale": math.exp(-1)}
PAPER_MIXTURE = {"pi": 0.25, "sigma1": math.exp(-1), "sigma2": math.exp(-6)}


def plain():
    """Plain layers."""
    return [keras.layers.Dense(n, "relu") for n in UNITS[:-1]] + [
        keras.layers.Dense(UNITS[-1])
    ]


def dropout():
    """A fifth of the inputs and half of the hidden units dropped."""
    rates = (0.2, 0.5, 0.5)
    pairs = zip(rates, plain(), strict=True)
    return [x for rate, dense in pairs for x in (keras.layers.Dropout(rate), dense)]


def bayesian(prior, kl_strength=1.0):
    """Normal posteriors on all kernels."""
    arguments = {
        "kl_strength": kl_strength,
        "prior": prior,
        "estimator": "local_reparameterization",
        "num_examples": 60000,
    }
    return [BayesianDense(n, "relu", **arguments) for n in UNITS[:-1]] + [
        BayesianDense(UNITS[-1], **arguments)
    ]


def gaussian():
    """One Normal as the prior."""
    return bayesian(Prior("Normal", params=GAUSSIAN))


def gaussian_cold():
    """The same with a tenth of the divergence, which is not the evidence bound."""
    return bayesian(Prior("Normal", params=GAUSSIAN), 0.1)


def mixture():
    """Two Normals as the prior, the scale mixture of the paper."""
    return bayesian(Prior("SpikeAndSlab", params=MIXTURE))


def gaussian_paper():
    """One Normal, pixels divided by 126, and the paper's weights of minibatches."""
    net = bayesian(Prior("Normal", params=PAPER_GAUSSIAN))
    return [keras.layers.Rescaling(255 / 126), *net]


def mixture_paper():
    """Two Normals, likewise."""
    net = bayesian(Prior("SpikeAndSlab", params=PAPER_MIXTURE))
    return [keras.layers.Rescaling(255 / 126), *net]


class MinibatchWeights(keras.callbacks.Callback):
    """Weights 2^(M - i) / (2^M - 1) of the divergence in batch i of M: section 3.4."""

    def on_train_batch_begin(self, batch, logs=None):
        self._set(STEPS * 2.0 ** -(batch + 1) if batch < 100 else 0.0)

    def on_train_end(self, logs=None):
        self._set(1.0)

    def _set(self, factor):
        for penalty in penalties_of(self.model).values():
            if isinstance(penalty, Divergence):
                penalty.factor = factor


def train(layers, data, epochs):
    """Train one net; returns it and the seconds of `fit`."""
    keras.utils.set_random_seed(0)
    weighted = layers in (gaussian_paper, mixture_paper)
    model = keras.Sequential([keras.Input((784,)), *layers()])
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * STEPS)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=1 if weighted else STEPS // 7,
        jit_compile=False,
    )
    begin = time.perf_counter()
    callbacks = [MinibatchWeights()] if weighted else []
    model.fit(*data, BATCH, epochs=epochs, verbose=0, callbacks=callbacks)
    return model, round(time.perf_counter() - begin)


NETS = (
    plain,
    dropout,
    gaussian,
    mixture,
    gaussian_cold,
    gaussian_paper,
    mixture_paper,
)


def probabilities(model, x):
    """Predictions of the mean weights, without noise."""
    logits = model.predict(x, batch_size=1000, verbose=0)
    return np.asarray(keras.ops.softmax(logits))


def samples(model, x):
    """Predictions by an average over draws of the weights or of the dropped units."""
    return uncertainty.predict(
        model, x, SAMPLES, 2000, seed=0, likelihood="categorical", from_logits=True
    )


def error(p, y):
    """Test error in per cent."""
    return round(float(np.mean(np.argmax(p, axis=-1) != y) * 100), 2)


def scores(p, y):
    """Error and calibration of probabilities."""
    metrics = {
        "ece": uncertainty.ExpectedCalibrationError(15),
        "nll": uncertainty.NegativeLogLikelihood(),
        "brier": uncertainty.BrierScore(),
    }
    values = {name: round(float(m(y, p)), 4) for name, m in metrics.items()}
    return {"error_percent": error(p, y), **values}


def auroc(inside, outside):
    """How well a number tells images of another kind from those of the test set."""
    truth = np.repeat([0, 1], [len(inside), len(outside)])
    value = roc_auc_score(truth, np.concatenate([inside, outside]))
    return round(float(value), 4)


def entropy(p):
    """Entropy of each prediction, in nats."""
    return -np.sum(p * np.log(np.maximum(p, 1e-30)), axis=-1)


def judge(model, test, others):
    """Scores on the test set, and against images of another kind."""
    x, y = test
    inside, outside = probabilities(model, x), probabilities(model, others)
    mean = scores(inside, y)
    mean["auroc_entropy"] = auroc(entropy(inside), entropy(outside))
    if not any(isinstance(v, SAMPLED) for v in model.layers):
        return {"mean_weights": mean}
    inside, outside = samples(model, x), samples(model, others)
    average = scores(inside.mean, y)
    for name in ("predictive_entropy", "mutual_information"):
        pair = getattr(inside, name), getattr(outside, name)
        average[f"auroc_{name}"] = auroc(*pair)
    return {"mean_weights": mean, "samples": average}


def pruned(model, test):
    """Test errors of mean weights, pruned by signal-to-noise or by their size."""
    x, y = test
    weights, errors = model.get_weights(), {"snr": {}, "size": {}}
    for share in SHARES:
        shares = prune_by_snr(model, share)
        found = {"error_percent": error(probabilities(model, x), y)}
        found["zeros_percent"] = [round(100 * v, 1) for v in shares.values()]
        if share in (0.75, 0.95):
            found["samples_error_percent"] = error(samples(model, x).mean, y)
        errors["snr"][f"{share:.0%}"] = found
    model.set_weights(weights)
    kernels = [v.kernel for v in model.layers if hasattr(v, "kernel")]
    sizes = [np.abs(np.asarray(kernel)) for kernel in kernels]
    for share in SHARES:
        least = np.quantile(np.concatenate([v.ravel() for v in sizes]), share)
        for kernel, size in zip(kernels, sizes, strict=True):
            kernel.assign(np.where(size > least, kernel, 0.0))
        errors["size"][f"{share:.0%}"] = error(probabilities(model, x), y)
    model.set_weights(weights)
    return errors


def trained(layers, data, epochs):
    """Train a net, or take it from the folder `KERASREG_NETS`, and keep it there."""
    folder = os.environ.get("KERASREG_NETS")
    if not folder:
        return train(layers, data, epochs)
    path = pathlib.Path(folder, f"{layers.__name__}_{epochs}.keras")
    seconds = path.with_suffix(".seconds")
    if not path.exists():
        model, took = train(layers, data, epochs)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
        seconds.write_text(str(took))
    return keras.models.load_model(path), int(seconds.read_text())


def main():
    """Train all nets and write the result, after each of them."""
    quick = harness.arguments().quick
    data, test = mnist.load()
    others = mnist.load("fashion_mnist")[1][0]
    epochs = 1 if quick else EPOCHS
    result = {"epochs": epochs, "samples": SAMPLES, "gaussian_prior": GAUSSIAN}
    result |= {"mixture_prior": MIXTURE, "paper_gaussian_prior": PAPER_GAUSSIAN}
    result |= {"paper_mixture_prior": PAPER_MIXTURE, "nets": {}}
    for layers in NETS:
        model, seconds = trained(layers, data, epochs)
        net = {"seconds": seconds, **judge(model, test, others)}
        if layers not in (plain, dropout):
            net["pruned"] = pruned(model, test)
        result["nets"][layers.__name__] = net
        harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
