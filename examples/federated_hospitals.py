"""Four hospitals learn together what tells a tumour, and share no patient."""

import os

import keras
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import federated
from federated import partition
from federated.strategies import FederatedDualAveraging
from kerasreg.regularizers import L1

rounds = 3 if os.environ.get("KERASREG_EXAMPLE_BUDGET") == "small" else 40
data = load_breast_cancer()
x = ((data.data - data.data.mean(axis=0)) / data.data.std(axis=0)).astype("float32")
x, x_test, y, y_test = train_test_split(x, data.target, random_state=0)
# Hospitals of different sizes, one of which sees few healthy people.
hospitals = partition.dirichlet((x, y), 4, alpha=1.0, min_size=40, seed=1)
hospitals.plot().savefig("who-has-what.png")


def build_model():
    model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(1, "sigmoid")])
    loss, metrics = "binary_crossentropy", ["accuracy"]
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics)
    return model


def train(clients, strategy=None, penalties=None):
    return federated.simulate(
        build_model,
        clients,
        strategy,
        rounds,
        penalties,
        evaluate=(x_test, y_test),
        epochs=2,
        verbose=0,
    )


alone = [train([hospitals[k]]).history["server_accuracy"][-1] for k in range(4)]
print("each hospital alone:", ", ".join(f"{accuracy:.3f}" for accuracy in alone))
together = train(hospitals)
print(f"together: {together.history['server_accuracy'][-1]:.3f}")
lasso = train(hospitals, FederatedDualAveraging(FedAvg()), L1(0.05))
kernel = lasso.model.layers[0].kernel.numpy().ravel()
print(f"together, by the lasso: {lasso.history['server_accuracy'][-1]:.3f}")
print("measurements kept:", ", ".join(data.feature_names[kernel != 0]))
lasso.history.plot().savefig("rounds.png")
