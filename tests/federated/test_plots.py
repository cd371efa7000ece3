import numpy as np
import pytest

pytest.importorskip("matplotlib")

import federated
from federated import History, Round, partition, plots
from tests.federated.models import build_linear, linear_data, split


def heights(axes):
    """Height of each bar, a list for each kind of bar that has some."""
    kinds = [[bar.get_height() for bar in kind.patches] for kind in axes.containers]
    return [kind for kind in kinds if any(kind)]


def test_bars_are_the_examples_of_each_label():
    y = np.array([0, 0, 1, 2, 2, 2])
    clients = federated.Clients((np.zeros(6), y), [[0, 2], [1, 3, 4, 5]])
    figure = clients.plot()
    (axes,) = figure.axes
    assert heights(axes) == [[1, 1], [1, 0], [0, 3]]
    assert [bar.get_y() for bar in axes.containers[2].patches] == [2, 1]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["2", "1", "0"]


def test_other_labels_and_names():
    data = np.zeros(4), np.arange(4.0)
    clients = partition.by_column(data, ["Bern", "Aarau", "Bern", "Bern"])
    (axes,) = plots.partition(clients, labels=[0, 1, 0, 0]).axes
    assert heights(axes) == [[0, 3], [1, 0]]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["Aarau", "Bern"]


def test_of_many_clients_a_map():
    data = np.zeros(1000), np.arange(1000) % 7
    clients = partition.dirichlet(data, 100)
    axes = plots.partition(clients).axes[0]
    (image,) = axes.images
    assert image.get_array().shape == (7, 100)
    assert image.get_array().sum() == 1000
    assert not axes.containers


def test_targets_of_a_regression_are_ordered():
    figure = plots.partition(split(linear_data(100), 3))
    assert len(figure.legends[0].get_texts()) == 10
    assert figure.legends[0].get_texts()[-1].get_text().startswith("-inf to ")


@pytest.mark.parametrize("number", [2, 61])
def test_partitions_can_be_drawn(number):
    data = np.zeros(500), np.arange(500) % 30
    plots.partition(partition.iid(data, number)).draw_without_rendering()


def run():
    rounds = [Round(0, server={"loss": 3.0})]
    for n in (1, 2, 3):
        rounds.append(
            Round(
                n,
                train={"loss": 1.0 / n, "accuracy": n / 4},
                evaluate={"loss": 2.0 / n},
                server={"loss": 3.0 / n},
                clients={0: {"val_loss": 1.0 / n}, 2: {"val_loss": 4.0 / n}},
                errors={1: "it was late"} if n == 2 else {},
                bytes_down=2_000_000,
                bytes_up=1_000_000,
                report={
                    "strengths": {"a": 0.1 * n, "b": 1e-4},
                    "zeros": n / 10,
                    "privacy": {"epsilon": 0.5 * n, "delta": 1e-5},
                    "rejected": {3: "NaN"},
                },
            )
        )
    return History(rounds)


def panels(figure):
    return {
        axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()
    }


def curves(axes):
    return {
        line.get_label(): (tuple(line.get_xdata()), tuple(line.get_ydata()))
        for line in axes.lines
    }


def test_a_history_has_its_panels():
    drawn = panels(run().plot())
    assert list(drawn) == [
        "loss",
        "accuracy",
        "clients",
        "MB sent",
        "strengths",
        "zeros",
        "privacy",
    ]
    loss = curves(drawn["loss"])
    assert loss["training"] == ((1, 2, 3), (1.0, 0.5, 1 / 3))
    assert loss["clients' evaluation"] == ((1, 2, 3), (2.0, 1.0, 2 / 3))
    assert loss["server's evaluation"] == ((0, 1, 2, 3), (3.0, 3.0, 1.5, 1.0))
    (range_of_clients,) = drawn["loss"].collections
    assert range_of_clients.get_datalim(drawn["loss"].transData).ymax == 4.0
    assert heights(drawn["clients"]) == [[2, 2, 2], [1, 1, 1], [0, 1, 0]]
    assert curves(drawn["MB sent"])["to clients"][1] == (0, 2, 4, 6)
    assert drawn["strengths"].get_yscale() == "log"
    assert list(curves(drawn["strengths"])) == ["a", "b"]
    assert drawn["zeros"].get_yscale() == "linear"
    assert curves(drawn["privacy"])["epsilon"][1] == (0.5, 1.0, 1.5)
    assert len(drawn["privacy"].lines) == 1


def test_a_real_history_can_be_drawn():
    result = federated.simulate(
        build_linear(), split(linear_data(), 3), rounds=2, verbose=0
    )
    figure = plots.history(result.history, title="Mine")
    assert figure.get_suptitle() == "Mine"
    assert next(iter(panels(figure))) == "loss"
    figure.draw_without_rendering()


@pytest.mark.parametrize("rounds", [[], [Round(0)]])
def test_no_round(rounds):
    figure = History(rounds).plot(title="stopped")
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "stopped"
