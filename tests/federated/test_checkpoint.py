"""Runs that are interrupted and resumed."""

import collections
import warnings

import keras
import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, Krum

import federated
from federated import checkpoint
from federated.strategies import AdaptiveStrength, Personalized
from kerasreg.callbacks import TargetSparsity
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1
from tests.exhaustive import some
from tests.federated.models import linear_data, split

ALL = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}


def build_model():
    layers = [keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.2)]
    head = keras.layers.Dense(1, name="head")
    model = keras.Sequential([keras.Input((3,)), *layers, head])
    model.compile(Proximal("adam"), "mse")
    return model


def run(strategy, rounds=4, **settings):
    return federated.simulate(
        build_model,
        split(linear_data(80), 4),
        strategy,
        rounds,
        **{
            "penalties": L1(0.01),
            "validation_split": 0.2,
            "evaluate": linear_data(20, seed=1),
            "verbose": 0,
            **settings,
        },
    )


def history_of(result):
    rounds = result.history.to_json()
    for each in rounds:
        del each["seconds"]
    return rounds


STRATEGIES = {
    "FedAvg": lambda: FedAvg(fraction_train=0.5, **ALL),
    "FedAdam": lambda: FedAdam(eta=0.1, **ALL),
    "FedAvgM": lambda: FedAvgM(server_momentum=0.9, **ALL),
    "Krum": lambda: Krum(num_malicious_nodes=1, **ALL),
    "AdaptiveStrength": lambda: AdaptiveStrength(FedAvg(**ALL), TargetSparsity(0.3)),
    "Personalized": lambda: Personalized(FedAvgM(server_momentum=0.5, **ALL), ["head"]),
}


@pytest.mark.parametrize(
    "name", some(list(STRATEGIES), "FedAdam", "AdaptiveStrength", "Personalized")
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    make = STRATEGIES[name]
    whole = run(make(), checkpoint=tmp_path)
    (tmp_path / "round-000004.npz").unlink()  # as if it had ended before
    resumed = run(make(), checkpoint=tmp_path, resume=True)
    weights = whole.model.get_weights(), resumed.model.get_weights()
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert history_of(whole) == history_of(resumed)
    assert whole.strengths == resumed.strengths
    assert whole.personal.keys() == resumed.personal.keys()
    for client, kept in whole.personal.items():
        for key, array in kept.items():
            other = resumed.personal[client][key]
            np.testing.assert_array_equal(array.numpy(), other.numpy())


class Interrupted(Exception):
    pass


def test_an_exception_in_the_middle_of_a_round_loses_that_round_only(tmp_path):
    strategy = STRATEGIES["FedAdam"]()
    aggregate = strategy.aggregate_train

    def aggregate_train(server_round, replies):
        replies = aggregate(server_round, replies)  # its state is changed already
        if server_round == 3:
            raise Interrupted
        return replies

    strategy.aggregate_train = aggregate_train
    with pytest.raises(Interrupted):
        run(strategy, checkpoint=tmp_path)
    del strategy.aggregate_train  # the same object, with what it remembers
    resumed = run(strategy, checkpoint=tmp_path, resume=True)
    assert history_of(resumed) == history_of(run(STRATEGIES["FedAdam"]()))


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_rounds_are_kept_and_half_a_file_is_passed_over(tmp_path):
    whole = run(None, checkpoint=tmp_path)
    assert files(tmp_path) == ["round-000003.npz", "round-000004.npz"]
    newest = tmp_path / "round-000004.npz"
    newest.write_bytes(newest.read_bytes()[:500])
    with pytest.warns(UserWarning, match="round-000004.npz cannot be read"):
        resumed = run(None, checkpoint=tmp_path, resume=True)
    assert history_of(resumed) == history_of(whole)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ValueError) as error,
    ):
        run(None, checkpoint=tmp_path, resume=True)
    assert str(error.value) == (
        f"None of the checkpoints ['{tmp_path}/round-000003.npz', "
        f"'{newest}'] can be read. Remove them, or start without `resume`."
    )


def test_without_a_checkpoint_it_starts_anew_and_over_one_only_to_resume(tmp_path):
    first = run(None, 3, checkpoint=tmp_path / "a" / "b", resume=True)
    assert len(first.history) == 3
    (tmp_path / "file").touch()
    known = "Invalid value for argument `checkpoint`. Expected "
    for folder, error, expected in [
        (
            tmp_path / "a" / "b",
            ValueError,
            "another folder, or resume=True to go on with the run that is there",
        ),
        (tmp_path / "file", ValueError, "the path of a folder"),
        (3, TypeError, "the path of a folder"),
    ]:
        with pytest.raises(error) as raised:
            run(None, 2, checkpoint=folder)
        assert str(raised.value) == (
            f"{known}{expected}. Received: checkpoint={folder!r}"
        )
    assert files(tmp_path / "a" / "b") == ["round-000002.npz", "round-000003.npz"]
    done = run(None, 3, checkpoint=tmp_path / "a" / "b", resume=True)
    assert history_of(done) == history_of(first)
    with pytest.raises(ValueError) as error:
        run(None, resume=True)
    assert str(error.value) == (
        "Invalid value for argument `checkpoint`. Expected the path of a folder to "
        "resume from. Received: checkpoint=None"
    )


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run(FedAvg(fraction_train=0.5, **ALL), 1, checkpoint=tmp_path)

    def message(strategy, **settings):
        with pytest.raises(ValueError) as error:
            run(strategy, checkpoint=tmp_path, resume=True, **settings)
        return str(error.value)

    start = "The checkpoint is of a run with another "
    assert message(FedAvg(fraction_train=0.5, **ALL), seed=1) == (
        start + "seed. Expected: 0. Received: 1"
    )
    assert message(FedAvgM(**ALL)) == (
        start + "strategy. Expected: ['FedAvg']. Received: ['FedAvgM']"
    )
    assert message(FedAvg(fraction_train=0.7, **ALL)) == (
        start + "strategy: FedAvg.fraction_train differs. Expected: 0.5. Received: 0.7"
    )
    with pytest.raises(ValueError) as error:
        federated.simulate(
            build_model,
            split(linear_data(), 3),
            FedAvg(fraction_train=0.5, **ALL),
            checkpoint=tmp_path,
            resume=True,
        )
    assert str(error.value) == (start + "number of clients. Expected: 4. Received: 3")
    with pytest.raises(ValueError) as error:
        federated.simulate(
            lambda: keras.models.clone_model(build_model(), clone_function=_wider),
            split(linear_data(), 4),
            FedAvg(fraction_train=0.5, **ALL),
            checkpoint=tmp_path,
            resume=True,
        )
    assert str(error.value).startswith(start + "model. Expected: {")


def _wider(layer):
    config = layer.get_config()
    if config.get("units") == 4:
        config["units"] = 5
    return type(layer).from_config(config)


def test_what_is_written_comes_back():
    value = {
        "numbers": [1, 2.5, None, True, np.float32(0.5), float("inf")],
        "tuple": (1, (2,)),
        3: np.arange(4).reshape(2, 2),
        "bytes": b"\x00\xff",
        (1, 2): {"dict": {}, "array": "array0", "set": set()},
        "sets": [{1, "a", (2, 3)}, frozenset({4.5})],
    }
    arrays = {}
    text = checkpoint.encode(value, arrays)
    back = checkpoint.decode(text, arrays)
    np.testing.assert_array_equal(back.pop(3), value.pop(3))
    assert back == value
    with pytest.raises(TypeError) as error:
        checkpoint.encode({"a": object}, {})
    assert str(error.value) == (
        "Expected numbers, strings, arrays, and dicts, lists and sets of them. "
        "Received: type"
    )


class Remembering(FedAvg):
    """Asks fewer clients, the more it has seen."""

    def __init__(self, empty):
        super().__init__(**ALL)
        self.seen = empty

    def configure_train(self, server_round, arrays, config, grid):
        self.fraction_train = 1.0 if len(self.seen) < 2 else 0.5
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        add = getattr(self.seen, "add", None) or self.seen.append
        add(server_round)
        return super().aggregate_train(server_round, replies)


def test_sets_of_a_strategy_are_resumed(tmp_path):
    whole = run(Remembering(set()))
    run(Remembering(set()), 2, checkpoint=tmp_path)
    resumed = run(Remembering(set()), checkpoint=tmp_path, resume=True)
    trained = [m for m in whole.history.rounds[-1].clients.values() if "loss" in m]
    assert len(trained) == 2
    assert history_of(resumed) == history_of(whole)


def test_what_a_checkpoint_cannot_hold_is_said_once_it_changes(tmp_path):
    expected = (
        r"Remembering.seen changed and is not part of the checkpoint: a resumed run "
        r"will differ. Expected .* of them. Received: deque"
    )
    with pytest.warns(UserWarning, match=expected):
        run(Remembering(collections.deque()), 1, checkpoint=tmp_path)
    constant = FedAvg(**ALL)
    constant.something = collections.deque()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(constant, 1, checkpoint=tmp_path / "constant")


def _slower():
    model = build_model()
    model.compile(Proximal(keras.optimizers.Adam(0.01)), "mae")
    return model


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"epochs": 2, "batch_size": 8}, "epochs, batch_size"),
        ({"penalties": L1(0.02)}, "penalties"),
        ({"build_model": _slower}, "optimizer, loss"),
        ({"clients": split(linear_data(84), 4)}, "numbers of examples"),
        ({}, None),
    ],
)
def test_another_training_than_before_is_warned_of(settings, names, tmp_path):
    def once(rounds, **settings):
        settings = {
            "build_model": build_model,
            "clients": split(linear_data(80), 4),
            "penalties": L1(0.01),
            "checkpoint": tmp_path,
            "resume": True,
            **settings,
        }
        return federated.simulate(rounds=rounds, verbose=0, **settings)

    once(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        once(1, **settings)
    said = [str(w.message) for w in caught if "goes on" in str(w.message)]
    assert said == ([f"The run goes on with another {names}"] if names else [])
