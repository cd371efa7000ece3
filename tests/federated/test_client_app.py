"""The client's side of messages."""

import keras
import numpy as np

from federated import records
from federated.client_app import _Player
from federated.clients import Clients
from federated.task import Task
from tests.federated.models import build_linear, linear_data


def test_weights_that_clients_share_are_read_once():
    player = _Player(Task(build_linear(), Clients.from_list([linear_data()])))
    sent = records.write_arrays(["000/w", "001/b"], [np.ones((2, 1)), np.zeros(1)])

    def received(record):
        content = records.copied(records.RecordDict({"arrays": record}))
        return player.received(content["arrays"])

    first, second = received(sent), received(sent)
    assert all(first[key] is second[key] for key in sent)
    changed = records.write_arrays(sent, [np.ones((2, 1)), np.ones(1)])
    third = received(changed)
    assert keras.ops.convert_to_numpy(third["001/b"]).tolist() == [1.0]
    again = received(records.write_arrays(["000/w"], [np.ones((2, 1))]))
    assert list(again) == ["000/w"]
