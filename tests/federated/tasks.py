"""A task, as `flwr run` names it."""

from tests.federated.models import build_linear, linear_data

batch_size = 16
validation_split = 0.25
build_model = build_linear()


def load_data(client, num_clients):
    """A share of the data, larger for later clients."""
    x, y = linear_data(100)
    rows = slice(client, None, num_clients)
    return x[rows][: 20 + client], y[rows][: 20 + client]


def evaluate(model):
    """Something of the model."""
    return {"bias": float(model.get_weights()[1][0])}
