"""A small CNN on MNIST, trained against attacks of radius 0.3: see README.md."""

import argparse
import json
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import mnist
import numpy as np

from kerasreg.adversarial import (
    FGSM,
    PGD,
    AdversarialModel,
    OverfittingGuard,
    robust_evaluate,
)

EPS, BATCH, HELD_OUT = 0.3, 128, 500
WHERE = {"bounds": (0.0, 1.0)}
JUDGE = PGD(EPS, steps=40, step=0.01, restarts=5, **WHERE)

# Objective, attack, and epochs.
ROWS = {
    "PGD": ("adversarial", PGD(EPS, steps=10, step=EPS / 4, **WHERE), 60),
    "TRADES": ("trades", PGD(EPS, steps=10, step=EPS / 4, **WHERE), 60),
    "RS-FGSM": ("adversarial", FGSM(EPS, random_start=True, **WHERE), 30),
}


class Ramp(keras.callbacks.Callback):
    """The radius of PGD in the first epochs: at once, 0.3 ends in a constant model."""

    def on_epoch_begin(self, epoch, logs=None):
        if isinstance(self.model.attack, PGD):
            eps = min(0.1 * (epoch + 1), EPS)
            if eps != self.model.attack.eps:
                self.model.attack = PGD(eps, steps=10, step=eps / 4, **WHERE)
                self.model.make_train_function(force=True)


class StopAt(keras.callbacks.Callback):
    """Ends a row when its time is over."""

    def __init__(self, minutes):
        super().__init__()
        self.begin, self.limit = time.perf_counter(), minutes
        self.epochs, self.cut = 0, False

    @property
    def minutes(self):
        return round((time.perf_counter() - self.begin) / 60, 2)

    def on_train_batch_end(self, batch, logs=None):
        if self.minutes > self.limit:
            self.model.stop_training = self.cut = True

    def on_epoch_end(self, epoch, logs=None):
        self.epochs = epoch + 1
        print(f"epoch {epoch}: {self.minutes} minutes", logs, flush=True)


def cnn():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 4, 2, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 4, 2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(100, "relu"),
            keras.layers.Dense(10),
        ]
    )


def train(row, data, minutes, folder):
    """Train a row as far as its time goes; the same folder goes on from there."""
    objective, attack, epochs = ROWS[row]
    (x, y), inner = data, cnn()
    model = AdversarialModel(inner, attack, objective)
    steps = epochs * (len(x) - HELD_OUT) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=1e-3, warmup_steps=500
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    stop = StopAt(minutes)
    guard = OverfittingGuard(
        x[-HELD_OUT:], y[-HELD_OUT:], PGD(EPS, steps=10, **WHERE), action="fallback"
    )
    history = model.fit(
        x[:-HELD_OUT],
        y[:-HELD_OUT],
        BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=[
            keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False),
            Ramp(),
            guard,
            stop,
        ],
    ).history
    facts = {
        "minutes": stop.minutes,
        "epochs": stop.epochs,
        "of_epochs": epochs,
        "out_of_time": stop.cut,
        "guard_acted_after_epoch": guard.acted,
        "robust_accuracy_of_held_out": [
            round(a, 3) for a in history.get("robust_accuracy", [])
        ],
    }
    inner.compile(loss=loss)
    return inner, facts


def outside(model, x, y):
    """Accuracy under ART's AutoPGD and Square, if ART is installed."""
    try:
        from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
    except ImportError:
        return None
    from kerasreg.adversarial import as_art_classifier

    judge, found = as_art_classifier(model, (0.0, 1.0)), {}
    for name, attack in {
        "AutoPGD": AutoProjectedGradientDescent(
            judge, eps=EPS, eps_step=0.1, max_iter=50, nb_random_init=2, verbose=False
        ),
        "Square": SquareAttack(judge, eps=EPS, max_iter=1000, verbose=False),
    }.items():
        moved = attack.generate(x, np.eye(10)[y])
        assert np.abs(moved - x).max() < EPS + 1e-5
        found[name] = float(np.mean(np.argmax(judge.predict(moved), 1) == y))
    return found


def main():
    """Train each row, judge it, and write the result after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="try the script")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--minutes", type=float, default=85, help="of a row's training")
    parser.add_argument("--folder", help="of what has been trained so far")
    parser.add_argument("--examples", type=int, default=1000, help="to be judged by")
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.folder or tempfile.mkdtemp())
    (x, y), (x_test, y_test) = mnist.load()
    x, x_test = (a.reshape(-1, 28, 28, 1) for a in (x, x_test))
    judged, judge = arguments.examples, JUDGE
    if arguments.quick:
        (x, y), judged = (x[:3000], y[:3000]), 60
        judge = PGD(EPS, steps=5, **WHERE)
    result = {"budget_minutes": arguments.minutes, "examples": judged, "rows": {}}
    for row in ROWS:
        kept = folder / f"{row}.json"
        if row in arguments.rows and not kept.exists():
            model, facts = train(row, (x, y), arguments.minutes, folder / row)
            model.save(folder / f"{row}.keras")
            predicted = np.argmax(model.predict(x_test, verbose=0), axis=1)
            attacks = {"FGSM": FGSM(EPS, **WHERE), "PGD": judge}
            report = robust_evaluate(model, x_test[:judged], y_test[:judged], attacks)
            print(row, report, flush=True)
            found = {
                **facts,
                "clean_accuracy": float(np.mean(predicted == y_test)),
                "accuracy": {"all": report.robust, **report.accuracy},
                "outside": outside(model, x_test[:judged], y_test[:judged]),
                "checks": {
                    c.name: [c.passed, round(c.figure, 4)] for c in report.checks
                },
            }
            kept.write_text(json.dumps(found))
        if kept.exists():
            result["rows"][row] = json.loads(kept.read_text())
            print(row, json.dumps(result["rows"][row]), flush=True)
            harness.write(__file__, result, arguments.quick)


if __name__ == "__main__":
    main()
