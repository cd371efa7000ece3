"""What users get, of what is sent: from the inside out, Flower's wrappers between."""

import pathlib
import re

import numpy as np
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping

import federated
from federated import records
from federated.strategies import FederatedDualAveraging, Wrapper
from federated.strategies.base import users_arrays
from kerasreg.regularizers import L1
from tests.federated.strategies import problems
from tests.federated.strategies.problems import averaging, build

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "add-a-strategy.md"


class Line(Wrapper):
    """Maps w to factor · w + 1."""

    def __init__(self, strategy, factor):
        super().__init__(strategy)
        self.factor = factor

    def final_arrays(self, arrays):
        made = {k: self.factor * a.numpy() + 1 for k, a in arrays.items()}
        return records.write_arrays(made, made.values())


def test_the_innermost_maps_first():
    within = DifferentialPrivacyServerSideFixedClipping(
        Line(averaging(), 2.0), 1.0, 1.0, 2
    )
    arrays = records.write_arrays(["000/w"], [np.array([5.0])])
    got = users_arrays(Line(within, 10.0), arrays)["000/w"].numpy()
    assert got.tolist() == [10 * (2 * 5 + 1) + 1]
    assert users_arrays(averaging(), arrays) is arrays


def test_the_average_of_the_manual_is_that_of_the_users_models():
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code
    names: dict = {}
    exec(code.group(1), names)
    seen = []

    class Spy(Wrapper):
        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            seen.append(records.read_arrays(users_arrays(self.strategy, arrays)))
            return arrays, metrics

    strategy = names["Averaged"](Spy(FederatedDualAveraging(averaging())), decay=0.5)
    result = federated.simulate(
        build(), problems.clients(2), strategy, 2, L1(0.4), batch_size=None, verbose=0
    )
    for weight, one, two in zip(
        result.model.get_weights(), *(s.values() for s in seen), strict=True
    ):
        np.testing.assert_allclose(weight, (one + two) / 2, atol=1e-6)
