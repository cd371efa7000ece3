"""What users get wrong is said before the first round, or in one line after it."""

import pytest
from flwr.serverapp.strategy import FedAvg

import federated
from federated import Round
from federated.server import shown_of
from federated.strategies import Robust
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
