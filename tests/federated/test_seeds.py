"""Random numbers by their place in the run."""

import random

import numpy as np

from federated.seeds import generator, seeded


def test_each_place_has_its_own_numbers():
    places = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 2), (0, 2, 1)]
    drawn = [generator(*place).integers(2**60) for place in places]
    assert len(set(drawn)) == len(places)
    assert drawn == [generator(*place).integers(2**60) for place in places]


def test_global_generators_are_seeded_for_a_while():
    before = random.getstate()
    with seeded(0, 1):
        first = random.random(), np.random.random()  # noqa: NPY002
    assert random.getstate() == before
    with seeded(0, 1):
        assert first == (random.random(), np.random.random())  # noqa: NPY002
