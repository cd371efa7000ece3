"""Who has which examples."""

import pickle

import keras
import numpy as np
import pytest

from federated import Clients
from federated.task import Task
from tests.federated.models import build_linear, linear_data, split


def test_a_list_of_data_is_one_data_set_with_rows():
    parts = split(linear_data(10), 3)
    clients = Clients.from_list(parts)
    assert [clients.num_examples(k) for k in range(3)] == [4, 3, 3]
    for (x, y), (a, b) in zip(parts, (clients[k] for k in range(3)), strict=True):
        np.testing.assert_array_equal(x, a)
        np.testing.assert_array_equal(y, b)
    assert Clients.from_list(clients) is clients


def test_named_arrays_and_sample_weights():
    x = {"a": np.arange(4), "b": np.ones((4, 2))}
    clients = Clients((x, np.arange(4), np.ones(4)), [[3, 0], slice(1, 3)])
    (first, y, weights), (second, *_) = clients[0], clients[1]
    assert first["a"].tolist() == y.tolist() == [3, 0]
    assert second["a"].tolist() == [1, 2]
    assert first["b"].shape == (2, 2)
    assert weights.tolist() == [1, 1]


def test_in_files_they_are_the_same_and_pickle_small(tmp_path):
    x = {
        "image": np.random.default_rng(0).random((50, 30)),
        "text": np.array(["ab"] * 50),
    }
    clients = Clients((x, np.arange(50)), np.split(np.arange(50), 5))
    stored = clients.save(tmp_path)
    text = pickle.dumps(stored)
    assert len(text) < 2000
    again = pickle.loads(text)
    for each in (stored, again):
        assert len(each) == 5
        (got, y), (expected, _) = each[2], clients[2]
        np.testing.assert_array_equal(got["image"], expected["image"])
        assert got["text"].tolist() == expected["text"].tolist()
        assert y.tolist() == list(range(20, 30))
    assert isinstance(keras.tree.flatten(again.data)[0], np.memmap)
    with pytest.raises(TypeError) as error:
        Clients((np.array([{}, {}]), np.arange(2)), [[0, 1]]).save(tmp_path)
    assert str(error.value) == (
        "The clients' data hold Python objects. Expected arrays of numbers or "
        "fixed-width strings."
    )


X, Y = linear_data(6)
LIST = (
    "Invalid value for argument `clients`. Expected a list with a tuple (x, y) or "
    "(x, y, sample_weight) for each client, or what a partitioner of "
    "federated.partition returns. Received: "
)


@pytest.mark.parametrize(
    ("clients", "error", "message"),
    [
        ([], ValueError, "There is no client. Expected one or more. Received: 0"),
        ({"a": 1}, TypeError, LIST + "{'a': 1}"),
        ([(1,)], TypeError, LIST + "[(1,)]"),
        (
            [(X, Y[:5])],
            ValueError,
            "Invalid data of client 0. Expected arrays with the same number of rows, "
            "one or more. Received: [5, 6] rows",
        ),
        (
            [(X, Y), (X[:0], Y[:0])],
            ValueError,
            "Invalid data of client 1. Expected arrays with the same number of rows, "
            "one or more. Received: [0] rows",
        ),
        (
            [(X, Y), (X, None)],
            ValueError,
            "Invalid data of client 1. Expected NumPy arrays with a row for each "
            "example: lists count as several inputs. Received: a single value at 1",
        ),
        (
            [(X, Y), (X[:, :2], Y)],
            ValueError,
            "Invalid data of client 1. Expected examples of the shapes of client 0, "
            "[('0', (3,)), ('1', (1,))]. Received: [('0', (2,)), ('1', (1,))]",
        ),
    ],
)
def test_data_that_make_no_clients(clients, error, message):
    with pytest.raises(error) as raised:
        Clients.from_list(clients)
    assert str(raised.value) == message


def test_rows_that_make_no_clients():
    with pytest.raises(ValueError) as error:
        Clients((X, Y), [[0, 1], []])
    assert str(error.value) == "The clients [1] have no examples."
    with pytest.raises(ValueError) as error:
        Clients((X, [0, 1, 0, 1, 0, 1]), [[0]])
    assert str(error.value) == (
        "Invalid value for argument `data`. Expected NumPy arrays with a row for each "
        "example: lists count as several inputs. Received: a single value at 1/0"
    )
    with pytest.raises(ValueError) as error:
        Clients((X, Y[:4]), [[0]])
    assert str(error.value) == (
        "Invalid value for argument `data`. Expected arrays with the same number of "
        "rows. Received: [4, 6] rows"
    )


def test_held_out_rows_are_a_part_that_depends_on_the_client_only():
    clients = Clients((np.arange(20), np.arange(20)), [np.arange(20)] * 2)
    task = Task(build_linear(), clients, validation_split=0.25)
    first, second = task.data(0), task.data(1)
    again = Task(build_linear(), clients, validation_split=0.25).data(0)
    for (kept, _), (held, _) in (first, second):
        assert sorted([*kept, *held]) == list(range(20))
        assert len(held) == 5
    assert first[1][0].tolist() == again[1][0].tolist()
    assert first[1][0].tolist() != second[1][0].tolist()
    with pytest.raises(ValueError) as error:
        Task(build_linear(), Clients((X, Y), [[0]]), validation_split=0.5).data(0)
    assert str(error.value) == (
        "Client 0 has 1 example(s): too few for validation_split=0.5."
    )


def test_rows_may_be_masks():
    mask = np.arange(6) % 3 == 0
    clients = Clients((X, Y), [mask, list(~mask)])
    assert [rows.tolist() for rows in clients.rows] == [[0, 3], [1, 2, 4, 5]]
    np.testing.assert_array_equal(clients[0][0], X[[0, 3]])
    assert clients.num_examples(1) == 4
    with pytest.raises(ValueError) as error:
        Clients((X, Y), [mask[:5]])
    assert str(error.value) == (
        "Invalid value for argument `rows`. Expected masks with a value for each of 6 "
        "rows. Received: a mask of shape (5,)"
    )
