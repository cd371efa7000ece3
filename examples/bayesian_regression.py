"""How sure is a forecast of diabetes progression, patient by patient?"""

import os

import keras
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from kerasreg.layers import BayesianDense, set_num_examples
from kerasreg.regularizers import Prior
from kerasreg.uncertainty import predict

small = os.environ.get("KERASREG_EXAMPLE_BUDGET") == "small"
keras.utils.set_random_seed(0)
x, y = load_diabetes(return_X_y=True)
x, y = x / x.std(axis=0), (y[:, None] - y.mean()) / y.std()
x, x_test, y, y_test = train_test_split(x, y, random_state=0)

noise_variance = 0.5  # of the targets: what a linear fit leaves unexplained
arguments = {
    "prior": Prior("Normal", trainable=["scale"]),
    "estimator": "local_reparameterization",
    "kl_strength": 2 * noise_variance,
}
model = keras.Sequential(
    [
        keras.Input(x.shape[1:]),
        BayesianDense(20, "relu", **arguments),
        BayesianDense(1, **arguments),
    ]
)
set_num_examples(model, len(x))
model.compile(keras.optimizers.Adam(0.01), "mse")
model.fit(x, y, batch_size=len(x), epochs=20 if small else 1000, verbose=0)

forecast = predict(model, x_test, samples=200, noise_variance=noise_variance, seed=0)
low, high = forecast.interval(0.9, noise=True)
inside = np.mean((low < y_test) & (y_test < high))
print(f"error of the average: {np.mean((forecast.mean - y_test) ** 2):.2f}")
print(f"share of patients inside their 90 % interval: {inside:.2f}")
print(f"the least known patient: {np.argmax(forecast.epistemic)}")
