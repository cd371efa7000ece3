"""Which of 30 measurements does a tumour classifier need?"""

import keras
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import ElasticNet

keras.utils.set_random_seed(0)
data = load_breast_cancer()
x, x_test, y, y_test = train_test_split(data.data, data.target, random_state=0)
scale = keras.layers.Normalization()
scale.adapt(x)
first = keras.layers.Dense(16, "relu", kernel_regularizer=ElasticNet(0.01, 0.001))
model = keras.Sequential([scale, first, keras.layers.Dense(1, "sigmoid")])
optimizer = Proximal(keras.optimizers.Adam(0.01))
model.compile(optimizer, loss="binary_crossentropy", metrics=["accuracy"])
model.fit(x, y, epochs=300, batch_size=len(x), verbose=0)

kernel = first.kernel.numpy()
print(f"accuracy on new data: {model.evaluate(x_test, y_test, verbose=0)[1]:.3f}")
print(f"weights that are exactly 0: {(kernel == 0).sum()} of {kernel.size}")
print("features kept:", ", ".join(data.feature_names[kernel.any(axis=1)]))
