import numpy as np
import pytest
from scipy import stats

import federated
from federated import partition
from tests.federated.models import build_linear, linear_data


def labelled(rows=600, labels=10, seed=0):
    """Row numbers as x, and labels of unequal frequency."""
    rng = np.random.default_rng(seed)
    y = np.minimum(rng.geometric(0.25, rows) - 1, labels - 1)
    return np.arange(rows), y


# Every partitioner, as a function of the data and the number of clients.
PARTITIONERS = {
    "iid": partition.iid,
    "dirichlet": lambda data, n, **k: partition.dirichlet(data, n, 0.1, **k),
    "shards": partition.shards,
    "quantity": lambda data, n, **k: partition.quantity(data, n, 0.3, **k),
}
named = pytest.mark.parametrize("deal", PARTITIONERS.values(), ids=PARTITIONERS)


def rows_of(clients):
    return [np.sort(clients[k][0]) for k in range(len(clients))]


def same(rows, others):
    return all(np.array_equal(a, b) for a, b in zip(rows, others, strict=True))


@named
@pytest.mark.parametrize("num_clients", [1, 7, 60])
def test_each_row_goes_to_one_client(deal, num_clients):
    data = labelled()
    if deal is partition.shards and num_clients == 1:
        data = labelled(labels=2)
    clients = deal(data, num_clients)
    assert len(clients) == num_clients
    np.testing.assert_array_equal(
        np.sort(np.concatenate(rows_of(clients))), np.arange(600)
    )
    for k in range(num_clients):
        x, y = clients[k]
        np.testing.assert_array_equal(y, data[1][x])


@named
def test_the_seed_decides(deal):
    data = labelled()
    first, again, other = (rows_of(deal(data, 6, seed=s)) for s in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


@named
def test_dicts_and_sample_weights(deal):
    rows, y = labelled()
    x = {"a": rows, "b": np.stack([rows, -rows], axis=1)}
    clients = deal((x, y, rows / 600), 6)
    for k in range(6):
        part, labels, weights = clients[k]
        np.testing.assert_array_equal(part["b"], np.stack([part["a"], -part["a"]], 1))
        np.testing.assert_array_equal(labels, y[part["a"]])
        np.testing.assert_array_equal(weights, part["a"] / 600)


def test_iid_sizes():
    clients = partition.iid(labelled(601), 60)
    assert {clients.num_examples(k) for k in range(60)} == {10, 11}


def test_iid_is_a_random_sample():
    """Label counts of 1000 draws are hypergeometric, at a level of 0.001."""
    data = np.arange(40), np.arange(40) % 2
    ones = [partition.iid(data, 4, seed=s)[0][1].sum() for s in range(1000)]
    law = stats.hypergeom(40, 20, 10)
    counts = np.bincount(ones, minlength=11)
    expected = 1000 * law.pmf(np.arange(11))
    # The tails together, so that each expected count is above 5.
    counts, expected = (
        np.array([v[:3].sum(), *v[3:8], v[8:].sum()]) for v in (counts, expected)
    )
    assert stats.chisquare(counts, expected).pvalue > 0.001


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_dirichlet_has_its_law(alpha):
    """The share of a client in a label is Beta(a, 4a), at a level of 0.001."""
    data = np.zeros(4000), np.repeat([0, 1], 2000)
    shares = np.array(
        [
            [(clients[k][1] == label).sum() / 2000 for label in range(2)]
            for seed in range(300)
            for clients in [partition.dirichlet(data, 5, alpha, seed=seed)]
            for k in [seed % 5]
        ]
    )
    law = stats.beta(alpha, 4 * alpha)
    for label in range(2):
        assert stats.kstest(shares[:, label], law.cdf).pvalue > 0.001
    # Draws of different labels are independent.
    assert stats.spearmanr(shares[:, 0], shares[:, 1]).pvalue > 0.001


def test_quantity_has_its_law():
    """The share of a client is Beta(a, 4a), at a level of 0.001."""
    data = np.zeros(2000), np.zeros(2000)
    shares = [
        partition.quantity(data, 5, 1.0, seed=seed).num_examples(seed % 5) / 2000
        for seed in range(300)
    ]
    assert stats.kstest(shares, stats.beta(1.0, 4.0).cdf).pvalue > 0.001


@pytest.mark.parametrize("deal", [partition.dirichlet, partition.quantity])
def test_the_smallest_client_has_enough(deal):
    data = labelled()
    clients = deal(data, 30, 0.01, min_size=20)  # 30 x 20 are all 600 rows
    assert {clients.num_examples(k) for k in range(30)} == {20}
    clients = deal(data, 30, 0.05, min_size=8)
    assert min(clients.num_examples(k) for k in range(30)) == 8


@pytest.mark.parametrize(("num_clients", "each"), [(20, 2), (100, 2), (10, 3), (5, 2)])
def test_shards_have_few_labels_and_like_sizes(num_clients, each):
    data = labelled()
    clients = partition.shards(data, num_clients, each)
    number = num_clients * each
    labels = [len(np.unique(clients[k][1])) for k in range(num_clients)]
    assert max(labels) <= each
    sizes = np.array([clients.num_examples(k) for k in range(num_clients)])
    # No division of labels into that many shards has a smaller largest shard.
    counts = np.bincount(data[1])
    smallest = next(
        size for size in range(1, 601) if np.ceil(counts / size).sum() <= number
    )
    assert sizes.max() <= each * smallest


def test_shards_of_mnist_are_those_of_fedavg():
    y = np.repeat(
        np.arange(10), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )
    clients = partition.shards((np.zeros(60000), y), 100)
    labels = np.array([len(np.unique(clients[k][1])) for k in range(100)])
    sizes = np.array([clients.num_examples(k) for k in range(100)])
    assert set(labels) == {1, 2}
    assert sizes.min() >= 560
    assert sizes.max() <= 640


def test_by_column():
    rows, y = labelled(7)
    speaker = np.array(["b", "a", "b", "c", "a", "a", "b"])
    clients = partition.by_column((rows, y), speaker)
    assert clients.names == ["a", "b", "c"]
    assert [part.tolist() for part in rows_of(clients)] == [[1, 4, 5], [0, 2, 6], [3]]


@pytest.mark.parametrize("form", ["numbers", "column", "one hot", "text", "given"])
def test_labels_in_their_forms(form):
    rows, y = labelled(labels=4)
    forms = {
        "numbers": (rows, y.astype("float32")),
        "column": (rows, y[:, None]),
        "one hot": (rows, np.eye(4)[y]),
        "text": (rows, np.array(list("abcd"))[y]),
        "given": (rows, np.zeros(600)),
    }
    labels = {"labels": y} if form == "given" else {}
    expected = rows_of(partition.dirichlet((rows, y), 6))
    got = rows_of(partition.dirichlet(forms[form], 6, **labels))
    assert same(expected, got)


def test_targets_of_a_regression_are_grouped():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(1000, 1))
    codes, names = partition.labels_of((np.zeros(1000), y))
    assert np.bincount(codes).tolist() == [100] * 10
    assert names[0].startswith("-inf to -1.")
    clients = partition.shards((np.arange(1000), y), 10)
    assert max(len(np.unique(codes[clients[k][0]])) for k in range(10)) == 2


def test_simulate_takes_a_partition():
    clients = partition.quantity(linear_data(), 4)
    result = federated.simulate(build_linear(), clients, rounds=2, verbose=0)
    assert sorted(result.history.rounds[-1].clients) == [0, 1, 2, 3]


DATA = labelled(10, labels=2)


@pytest.mark.parametrize(
    ("deal", "message"),
    [
        (
            lambda: partition.iid(DATA, 0),
            "Invalid value for argument `num_clients`. Expected a positive integer. "
            "Received: num_clients=0",
        ),
        (
            lambda: partition.iid(DATA, 11),
            "Invalid value for argument `num_clients`. Expected at least 1 row(s) for "
            "each client. Received: num_clients=11 for 10 rows",
        ),
        (
            lambda: partition.dirichlet(DATA, 4, min_size=3),
            "Invalid value for argument `num_clients`. Expected at least 3 row(s) for "
            "each client. Received: num_clients=4 for 10 rows",
        ),
        (
            lambda: partition.dirichlet(DATA, 4, alpha=0.0),
            "Invalid value for argument `alpha`. Expected a finite number greater than "
            "0. Received: alpha=0.0",
        ),
        (
            lambda: partition.shards((np.zeros(10), np.arange(10)), 3),
            "Invalid value for argument `shards_per_client`. Expected at least a shard "
            "for each of 10 labels. Received: 3 clients with shards_per_client=2",
        ),
        (
            lambda: partition.shards((np.zeros(10), {"a": np.zeros(10)}), 3),
            "Invalid value for argument `labels`. Expected an array with a label for "
            "each row, as y is a structure of several arrays. Received: labels=None",
        ),
        (
            lambda: partition.dirichlet((np.zeros(10), np.ones((10, 2))), 3),
            "Invalid value for argument `labels`. Expected an array with a value for "
            "each of 10 rows. Received: an array of shape (10, 2)",
        ),
        (
            lambda: partition.by_column(DATA, [1, 2]),
            "Invalid value for argument `column`. Expected an array with a value for "
            "each of 10 rows. Received: an array of shape (2,)",
        ),
        (
            lambda: partition.by_column(DATA, ["a", None] * 5),
            "Invalid value for argument `column`. Expected a value for each row. "
            "Received: none in 5 of 10 rows",
        ),
        (
            lambda: partition.by_column(DATA, [1.0, np.nan] * 5),
            "Invalid value for argument `column`. Expected a value for each row. "
            "Received: none in 5 of 10 rows",
        ),
    ],
)
def test_errors(deal, message):
    with pytest.raises(ValueError) as caught:
        deal()
    assert str(caught.value) == message


@pytest.mark.parametrize("data", [np.zeros(3), (np.zeros(3),), {"x": np.zeros(3)}])
def test_data_that_is_no_tuple(data):
    with pytest.raises(TypeError) as caught:
        partition.iid(data, 2)
    assert str(caught.value) == (
        "Invalid value for argument `data`. Expected a tuple (x, y) or "
        f"(x, y, sample_weight). Received: {type(data).__name__}"
    )
