import numpy as np

import federated
from tests.federated.models import build_linear, linear_data, split


def test_one_client_with_all_the_data_is_central_training():
    x, y = linear_data()
    result = federated.simulate(
        build_linear(), [(x, y)], rounds=5, batch_size=None, verbose=0
    )
    model = build_linear()()
    model.set_weights(_initial())
    model.fit(x, y, batch_size=len(x), epochs=5, verbose=0)
    for mine, theirs in zip(result.model.get_weights(), model.get_weights()):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def _initial():
    from federated.seeds import seeded

    with seeded(0):
        return build_linear()().get_weights()


def test_one_full_batch_step_of_many_clients_is_the_step_of_the_pooled_gradient():
    x, y = linear_data()
    together = federated.simulate(
        build_linear(), [(x, y)], rounds=3, batch_size=None, verbose=0
    )
    apart = federated.simulate(
        build_linear(), split((x, y), 7), rounds=3, batch_size=None, verbose=0
    )
    for a, b in zip(together.model.get_weights(), apart.model.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_metrics_begin_anew_at_each_client_and_round():
    x, y = linear_data()

    def build_model():
        model = build_linear(learning_rate=1e-9)()
        model.compile(model.optimizer, "mse", metrics=["mse"])
        return model

    result = federated.simulate(
        build_model, split((x, y), 2), rounds=2, validation_split=0.5, verbose=0
    )
    for last in result.history.rounds[1:]:
        for metrics in last.clients.values():
            np.testing.assert_allclose(metrics["mse"], metrics["loss"], rtol=1e-5)
            np.testing.assert_allclose(
                metrics["val_mse"], metrics["val_loss"], rtol=1e-5
            )
