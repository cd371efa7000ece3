import io
import json

import numpy as np
import pytest

import federated
from federated import History, Round
from tests.federated.models import build_linear, linear_data, split


@pytest.fixture(scope="module")
def result():
    x, y = linear_data()

    def evaluate(model):
        return {"norm": float(np.sum(model.get_weights()[0] ** 2))}

    return federated.simulate(
        build_linear(),
        split((x, y), 3),
        rounds=2,
        evaluate=evaluate,
        validation_split=0.2,
        verbose=0,
    )


def npy(array):
    """An array as Flower sends it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_one_row_a_round(result):
    frame = result.history.to_frame()
    assert list(frame["round"]) == [0, 1, 2]
    assert frame["loss"].isna().tolist() == [True, False, False]
    assert not frame["server_norm"].isna().any()
    # The kernel and the bias of 3 clients; they go down again to be evaluated.
    size = sum(len(npy(w)) for w in result.model.get_weights())
    assert list(frame["bytes_up"])[1:] == [3 * size] * 2
    assert list(frame["bytes_down"])[1:] == [6 * size] * 2
    assert result.bytes_sent == frame[["bytes_up", "bytes_down"]].sum().sum()
    assert list(frame["clients"])[1:] == [3, 3]
    assert list(frame["failed"])[1:] == [0, 0]


def test_a_round_is_the_mean_of_its_clients(result):
    each = result.history.to_frame(clients=True)
    whole = result.history.to_frame()
    assert list(each["client"]) == [0, 1, 2, 0, 1, 2]
    for name in ("loss", "val_loss"):  # the clients are of one size
        means = each.groupby("round")[name].mean()
        np.testing.assert_allclose(means, whole[name][1:], rtol=1e-6)


def test_columns_by_name(result):
    history = result.history
    assert history["loss"] == list(history.to_frame()["loss"][1:])
    assert len(history["server_norm"]) == 3
    assert len(history) == 2
    with pytest.raises(KeyError) as caught:
        history["accuracy"]
    assert str(caught.value.args[0]).startswith(
        "No round has 'accuracy'. Expected one of ['bytes_down', 'bytes_up', "
    )


def test_the_way_through_json(result):
    text = json.dumps(result.history.to_json())
    again = History.from_json(json.loads(text))
    assert list(again) == list(result.history)


def test_errors_and_reports_have_columns():
    history = History(
        [
            Round(
                1,
                clients={0: {"loss": 1.0}},
                errors={3: "it is late"},
                report={"zeros": 0.5, "strengths": {"a": 0.1}},
            )
        ]
    )
    row = history.to_frame().iloc[0]
    assert (row["clients"], row["failed"]) == (1, 1)
    assert (row["zeros"], row["strengths/a"]) == (0.5, 0.1)
    each = history.to_frame(clients=True).set_index("client")
    assert each.loc[3, "error"] == "it is late"
    assert History([Round(1)]).to_frame(clients=True).empty


def test_names_and_rejections():
    client = {"loss": 1.0}
    last = Round(
        1,
        clients={0: client, 1: client},
        errors={2: "late"},
        report={"rejected": {1: "NaN"}},
    )
    history = History([last], names=["Bern", "Ulm", "Graz"])
    row = history.to_frame().iloc[0]
    assert (row["clients"], row["failed"], row["rejected"]) == (2, 1, 1)
    each = history.to_frame(clients=True).set_index("name")
    assert each["rejected"].dropna().to_dict() == {"Ulm": "NaN"}
    assert each["error"].dropna().to_dict() == {"Graz": "late"}
    again = History.from_json(json.loads(json.dumps(history.to_json())))
    assert again.rounds == history.rounds
    assert repr(history).startswith("<History of 1 rounds: ['bytes_down', ")
