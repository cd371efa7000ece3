"""How much can measurements be wrong before a tumour classifier is?"""

import os

import keras
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from kerasreg.adversarial import PGD, AdversarialModel, robust_evaluate
from kerasreg.plots import robustness_curve

small = os.environ.get("KERASREG_EXAMPLE_BUDGET") == "small"
data = load_breast_cancer()
x, x_test, y, y_test = train_test_split(
    data.data.astype("float32"), data.target, random_state=0
)
loss = keras.losses.BinaryCrossentropy(from_logits=True)
# All measurements may be off by a part of their standard deviation, none below 0.
attack = PGD(0.3, scale=x.std(axis=0), bounds=(0.0, 10 * x.max(axis=0)), steps=10)


def train(robust):
    keras.utils.set_random_seed(0)
    normalize = keras.layers.Normalization()
    normalize.adapt(x)
    layers = [normalize, keras.layers.Dense(32, "relu"), keras.layers.Dense(1)]
    model = inner = keras.Sequential(layers)
    if robust:
        inner.build(x.shape)
        model = AdversarialModel(inner, attack, "trades", weight=2.0)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(x, y, epochs=5 if small else 40, batch_size=64, verbose=0)
    inner.compile(loss=loss)
    return inner


reports = {}
for name in ("plain", "trades"):
    model = train(name == "trades")
    reports[name] = robust_evaluate(model, x_test, y_test, attack)
    print(f"{name}\n{reports[name]}\n")
robustness_curve(reports, title="Breast cancer").savefig("robustness.png")
