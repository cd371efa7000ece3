"""Heart disease by hospital: alone, pooled, federated; with strengths that adapt."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
import harness  # sets the log level first
import keras
import numpy as np
from data import NAMES, sites, split
from flwr.serverapp.strategy import FedAvg
from sklearn.metrics import roc_auc_score

import federated
from federated import packing, records
from federated.strategies import (
    AdaptiveStrength,
    FederatedDualAveraging,
    ServerProximal,
    Wrapper,
)
from kerasreg.callbacks import TargetSparsity
from kerasreg.regularizers import L1, L2

EPOCHS = 5
RATE = 0.1


class Packed(Wrapper):
    """Counts the bytes that a deployed federation sends: arrays packed."""

    def __init__(self, strategy):
        super().__init__(strategy)
        self.bytes = 0

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.bytes += sum(_packed(m.content) for m in messages)
        return messages

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.bytes += sum(_packed(r.content) for r in replies if not r.has_error())
        return super().aggregate_train(server_round, replies)


def _packed(content):
    return records.size_of(packing.pack(content))


def builder(hidden):
    def build_model():
        layers = [
            keras.layers.Dense(units, "tanh", name=f"hidden{i}")
            for i, units in enumerate(hidden)
        ]
        head = keras.layers.Dense(1, "sigmoid")
        model = keras.Sequential([keras.Input((len(NAMES),)), *layers, head])
        model.compile(keras.optimizers.SGD(RATE), "binary_crossentropy")
        return model

    return build_model


def measure(model, tests):
    """Accuracy and area under the ROC curve at each hospital."""
    found = {}
    for name, (x, y) in tests.items():
        p = model.predict_on_batch(x).ravel()
        found[name] = [float(((p > 0.5) == y).mean()), float(roc_auc_score(y, p))]
    return found


def train(clients, strategy, rounds, penalties, hidden=(), seed=0):
    """The result of a run, and the bytes of training, dense and packed."""
    strategy = Packed(strategy or FedAvg(min_train_nodes=1, min_available_nodes=1))
    result = federated.simulate(
        builder(hidden),
        clients,
        strategy,
        rounds,
        penalties,
        epochs=EPOCHS,
        batch_size=None,
        seed=seed,
        verbose=0,
    )
    kernels = [w for w in result.model.get_weights() if w.ndim > 1]
    return result.model, {
        "zeros": float(np.mean(np.concatenate([k.ravel() for k in kernels]) == 0)),
        "features": int(kernels[0].any(axis=1).sum()),
        "bytes": result.bytes_sent,
        "bytes_packed": strategy.bytes,
        "strengths": result.strengths,
    }


def compare(seed, rounds):
    """All of them on one split of each hospital."""
    training, tests = split(sites(), seed)
    clients = list(training.values())
    pooled = [tuple(np.concatenate(a) for a in zip(*clients, strict=True))]
    l2, l1, net = L2(0.01), L1(0.01), (64, 32)
    cases = {
        f"alone: {name}": ([data], None, l2, ()) for name, data in training.items()
    }
    cases["pooled"] = pooled, None, l2, ()
    cases["federated"] = clients, FedAvg(), l2, ()
    cases["federated lasso"] = clients, FederatedDualAveraging(FedAvg()), l1, ()
    adaptive = AdaptiveStrength(ServerProximal(FedAvg()), TargetSparsity(0.5))
    cases["federated, adaptive"] = clients, adaptive, l1, ()
    cases["net, pooled"] = pooled, None, l2, net
    cases["net, federated"] = clients, FedAvg(), l2, net
    # Slower, and not on the last layer: a net whose weights are all zero stays so.
    policy = TargetSparsity(0.8, largest_step=0.2)
    adaptive = AdaptiveStrength(ServerProximal(FedAvg()), policy, every=2)
    weak = {"hidden*": L1(1e-3)}
    cases["net, federated, adaptive"] = clients, adaptive, weak, net
    rows = {}
    for name, (data, strategy, penalty, hidden) in cases.items():
        begin = time.perf_counter()
        model, facts = train(data, strategy, rounds, penalty, hidden, seed)
        facts["seconds"] = round(time.perf_counter() - begin, 1)
        rows[name] = {"at": measure(model, tests), **facts}
        print(seed, name, rows[name], file=sys.stderr, flush=True)
    return rows


def main(quick):
    seeds, rounds = (range(1), 3) if quick else (range(5), 100)
    runs = [compare(seed, rounds) for seed in seeds]
    summary = {}
    for name in runs[0]:
        rows = [run[name] for run in runs]
        at = {
            site: [
                f"{m:.3f} +- {s:.3f}"
                for m, s in zip(
                    np.mean([r["at"][site] for r in rows], axis=0),
                    np.std([r["at"][site] for r in rows], axis=0) / len(rows) ** 0.5,
                    strict=True,
                )
            ]
            for site in rows[0]["at"]
        }
        mean = np.mean([[*r["at"].values()] for r in rows], axis=(0, 1))
        summary[name] = {
            "mean_accuracy": round(float(mean[0]), 3),
            "mean_auroc": round(float(mean[1]), 3),
            "accuracy_auroc": at,
            **{
                fact: round(float(np.mean([r[fact] for r in rows])), 3)
                for fact in ("zeros", "features", "bytes", "bytes_packed", "seconds")
            },
        }
    harness.write(__file__, {"seeds": len(runs), "summary": summary}, quick)


if __name__ == "__main__":
    main(harness.arguments().quick)
