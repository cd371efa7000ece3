"""Heart disease at four hospitals, scaled without looking at any of them."""

import os
import pathlib

import numpy as np

# (centre, scale) of each number, from general knowledge, so that no site's data travel.
NUMBERS = {
    "age": (0, 55.0, 10.0),
    "blood pressure": (3, 130.0, 18.0),
    "cholesterol": (4, 240.0, 50.0),
    "highest heart rate": (7, 140.0, 25.0),
    "ST depression": (9, 1.0, 1.0),
    "vessels": (11, 0.0, 1.0),
}
FLAGS = {"male": 1, "fasting sugar": 5, "angina by exercise": 8}
KINDS = {
    "chest pain": (2, (1, 2, 3, 4)),
    "ECG": (6, (0, 1, 2)),
    "slope": (10, (1, 2, 3)),
    "thal": (12, (3, 6, 7)),
}
NAMES = [
    *NUMBERS,
    *FLAGS,
    *(f"{name} {value}" for name, (_, values) in KINDS.items() for value in values),
]


def sites():
    """Dict from a hospital to its `(x, y)`; what is missing is the centre, 0."""
    folder = os.environ.get("KERASREG_DATA")
    if not folder:
        raise SystemExit(
            "Set KERASREG_DATA to a folder with heart_by_site.npz: an array for each "
            "hospital, the 13 columns and the diagnosis of UCI's heart disease data."
        )
    with np.load(pathlib.Path(folder) / "heart_by_site.npz") as stored:
        return {name: _encoded(stored[name]) for name in stored.files}


def _encoded(table):
    table = table.astype("float64")
    table[table[:, 4] == 0, 4] = np.nan  # a cholesterol of 0 was not measured
    columns = [(table[:, i] - centre) / scale for i, centre, scale in NUMBERS.values()]
    columns += [table[:, i] for i in FLAGS.values()]
    columns += [
        table[:, i] == value for i, values in KINDS.values() for value in values
    ]
    x = np.nan_to_num(np.stack(columns, axis=1), nan=0.0)
    return x.astype("float32"), (table[:, 13] > 0).astype("float32")


def split(data, seed, share=0.3):
    """Training and test rows of each hospital, with the same share of the sick."""
    train, test = {}, {}
    for k, (name, (x, y)) in enumerate(data.items()):
        rng = np.random.default_rng([seed, k])
        held_out = np.zeros(len(y), bool)
        for label in (0, 1):
            rows = rng.permutation(np.flatnonzero(y == label))
            held_out[rows[: round(share * len(rows))]] = True
        train[name] = x[~held_out], y[~held_out]
        test[name] = x[held_out], y[held_out]
    return train, test
