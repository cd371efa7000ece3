"""What users get wrong is said before the first round, or in one line after it."""

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

import federated
from federated import Round
from federated.server import shown_of
from federated.strategies import Personalized, Robust
from kerasreg.regularizers import L1
from tests.federated.models import build_linear, linear_data, split

DATA = split(linear_data(), 2)


def _run(**arguments):
    arguments = {"build_model": build_linear(), "clients": DATA, **arguments}
    return federated.simulate(**arguments)


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"),
    [
        (
            "build_model",
            build_linear()(),
            TypeError,
            "`build_model`. Expected a function without arguments that returns a "
            "compiled keras.Model. Received: build_model=<Sequential",
        ),
        (
            "validation_split",
            "a",
            TypeError,
            "`validation_split`. Expected a non-negative finite number. Received: "
            "validation_split='a'",
        ),
        (
            "evaluate",
            3,
            TypeError,
            "`evaluate`. Expected (x, y), (x, y, sample_weight) or a function from the "
            "model to a dict. Received: int",
        ),
        (
            "evaluate",
            DATA[0][0],
            TypeError,
            "`evaluate`. Expected (x, y), (x, y, sample_weight) or a function from the "
            "model to a dict. Received: ndarray",
        ),
        *(
            (
                "mods",
                mods,
                TypeError,
                "`mods`. Expected a list of functions of a message, a context and the "
                f"next one. Received: mods={mods}",
            )
            for mods in (3, [3])
        ),
    ],
)
def test_arguments(argument, value, error, message):
    with pytest.raises(error) as raised:
        _run(**{argument: value})
    assert str(raised.value).startswith(f"Invalid value for argument {message}")


@pytest.mark.parametrize("penalties", [0.1, L1, {"*": L1}])
def test_penalties_that_are_none(penalties):
    with pytest.raises(TypeError) as raised:
        _run(penalties=penalties)
    assert str(raised.value) == (
        "Invalid value for argument `penalties`. Expected a penalty such as L1(0.01), "
        f"or a dict from a name to one. Received: penalties={penalties!r}"
    )


def test_data_in_lists():
    with pytest.raises(ValueError, match="lists count as several inputs"):
        _run(clients=[([[1.0, 2.0, 3.0]], [1.0])])


def test_clients_have_names_from_the_first_to_the_last():
    x, y = linear_data()
    rows = [range(30), range(30, 60)]
    clients = federated.Clients((x, y), rows, names=["Bern", "Ulm"])
    assert repr(clients) == "<2 Clients with 60 rows of data>"

    def one(message, context, call_next):
        if context.node_id == 1:
            raise OSError("no disk")
        return call_next(message, context)

    with pytest.raises(federated.RoundError, match="Clients Ulm: OSError: no disk"):
        _run(clients=clients, mods=[one], min_clients=2, verbose=0)
    kept = Personalized(FedAvg(), ["*/bias"])
    result = _run(clients=clients, strategy=kept, rounds=1, verbose=0)
    assert repr(result) == "Result(model='sequential', rounds=1)"
    frame = result.history.to_frame(clients=True)
    assert list(frame["name"]) == ["Bern", "Ulm"]
    by_name, by_number = result.personal_model("Ulm"), result.personal_model(1)
    np.testing.assert_array_equal(*(m.get_weights()[1] for m in (by_name, by_number)))


def test_data_that_the_model_does_not_take():
    x, y = DATA[0]
    with pytest.raises(ValueError) as raised:
        _run(clients=[(x[:, :2], y)])
    assert str(raised.value).startswith(
        "The model does not take the data of client 0, examples of ('float32', (2,)): "
    )
    assert "\x1b" not in str(raised.value)


def test_the_bar_forgets_the_failures_of_a_round_before(capfd):
    rounds = [0]

    def once(message, context, call_next):
        rounds[0] += context.node_id == 1
        if context.node_id == 1 and rounds[0] == 1:
            raise OSError("no disk")
        return call_next(message, context)

    result = _run(rounds=3, mods=[once])
    assert [len(r.errors) for r in result.history] == [0, 1, 0, 0]
    last = capfd.readouterr().out.replace("\r", "\n").split("\n")
    assert "failed: 0.0" in "".join(last[-3:])


def test_a_run_that_stops_says_why(capfd):
    class Stopping(Robust):
        def configure_train(self, server_round, *rest):
            if server_round == 2:
                raise federated.rounds.StopFederation("The budget is spent.")
            return super().configure_train(server_round, *rest)

    _run(strategy=Stopping(FedAvg()), rounds=3)
    assert "The budget is spent." in capfd.readouterr().out


def test_rejections_are_shown():
    last = Round(1, errors={1: "late"}, report={"rejected": {0: "NaN", 2: "NaN"}})
    assert shown_of(last) == {"failed": 1.0, "rejected": 2.0}
