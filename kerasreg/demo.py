"""Compares penalties on breast-cancer data and writes a report: `make demo`."""

import argparse
import base64
import html
import importlib.resources
import inspect
import io
import platform
import string
import time
from pathlib import Path

import keras
import numpy as np

import kerasreg
from kerasreg.datasets import breast_cancer
from kerasreg.extras import require
from kerasreg.optimizers import solve
from kerasreg.regularizers import L1, L2, ElasticNet, GroupLasso, penalties_of
from kerasreg.selection import compare


def candidates():
    """Returns what is compared with the network as it is; see `compare`."""
    return {
        "L1": L1(0.008),
        "L2": L2(0.008),
        "elastic net": ElasticNet(l1=0.006, l2=0.003),
        "group lasso": {"*": L2(0.003), "first": GroupLasso(0.01, axis="input")},
        "dropout": lambda: build(dropout=0.5),
    }


def build(dropout=0.0):
    """Makes the network, 30-32-16-1, with dropout behind its hidden layers or not.

    Args:
        dropout: Share of the hidden units that are dropped.

    Returns:
        A compiled Keras model.
    """
    layers = [keras.Input((30,))]
    for seed, (units, name) in enumerate([(32, "first"), (16, "second")]):
        layers.append(keras.layers.Dense(units, activation="relu", name=name))
        if dropout:  # With a seed, it leaves the other layers' seeds alone.
            layers.append(keras.layers.Dropout(dropout, seed=seed))
    layers.append(keras.layers.Dense(1, activation="sigmoid", name="head"))
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.Adam(0.01),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


def coefficient_path(x, y, count=40):
    """Solves a logistic regression at falling L1 strengths, each from the last one.

    Args:
        x: Standardized features, shape `(examples, features)`.
        y: Labels 0 and 1, shape `(examples, 1)`.
        count: Number of strengths.

    Returns:
        The strengths, from 1 % above the lowest at which all coefficients are 0
        down to 1/300 of that, and the coefficients, shape `(count, features)`.
    """
    highest = 1.01 * np.abs(x.T @ (y - y.mean())).max() / len(x)
    strengths = np.geomspace(highest, highest / 300, count)
    head = keras.layers.Dense(
        1, "sigmoid", kernel_initializer="zeros", kernel_regularizer=L1(highest)
    )
    model = keras.Sequential([keras.Input((x.shape[1],)), head])
    model.compile(loss="binary_crossentropy")
    (penalty,) = penalties_of(model).values()
    coefs = []
    for strength in strengths:
        penalty.strength = strength
        solve(model, x, y)
        coefs.append(keras.ops.convert_to_numpy(head.kernel)[:, 0])
    return strengths, np.array(coefs)


def main(arguments=None, prog="python -m kerasreg.demo"):
    """Runs the comparison, prints it and writes the report.

    Args:
        arguments: Command line, by default the program's.
        prog: Name of the command.
    """
    options = _options(arguments, prog)
    start = time.perf_counter()
    x, y, names = breast_cancer()
    y = y[:, None]
    print(f"Breast-cancer data: {len(x)} tumours, {x.shape[1]} features.")
    result = compare(
        build,
        x,
        y,
        candidates(),
        folds=options.folds,
        epochs=options.epochs,
        batch_size=64,
        seed=options.seed,
        preprocess="standardize",
        feature_names=names,
        validation_freq=min(5, options.epochs),
    )
    print(f"\n{result}\n")
    for name in _sparse(result):
        kept = result.selected(name)
        print(f"{name} keeps {len(kept)} features: {', '.join(kept)}\n")
    print("Coefficient path of a logistic regression ...", flush=True)
    path = coefficient_path(result.preprocess(x), y)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    page = report(result, path, names, options, time.perf_counter() - start)
    options.out.write_text(page, encoding="utf-8")
    print(f"Report: {options.out} ({time.perf_counter() - start:.0f} s in all)")


def _options(arguments, prog):
    parser = argparse.ArgumentParser(prog, description=__doc__)
    out = Path("demo", "report.html")
    parser.add_argument("--out", type=Path, default=out, help="the report to write")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def _sparse(result):
    """Names of the rows that drop features."""
    count = len(result.feature_names)
    return [r.name for r in result if r.features is not None and r.features < count]


def report(result, path, names, options, seconds):
    """Renders the comparison as one page of HTML that needs no other file.

    Args:
        result: The `Comparison`.
        path: Strengths and coefficients, as of `coefficient_path`.
        names: Names of the features.
        options: The parsed command line.
        seconds: Duration of the demo, in seconds.

    Returns:
        The page.
    """
    require("matplotlib", "viz")
    from kerasreg import plots

    l1_l2 = {f"{n} penalty": result.models[n] for n in ("L2", "L1")}
    strengths, coefs = path
    figures = {
        "curves": plots.learning_curves(result.histories),
        "weights": plots.weight_histogram(l1_l2),
        "path": plots.coefficient_path(strengths, coefs, names),
    }
    template = importlib.resources.files("kerasreg").joinpath("demo.html")
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        {name: _embed(figure) for name, figure in figures.items()},
        subtitle="A network of 30-32-16-1 units learns to tell malignant from benign "
        "tumours (569 examples, 30 features of cell nuclei). kerasreg trains it "
        "without a penalty, with four penalties and with dropout, on the same folds.",
        cards=_cards(result),
        findings="".join(f"<li>{html.escape(text)}</li>" for text in findings(result)),
        table=_table(result),
        notes=html.escape(" ".join(result.notes())),
        folds=options.folds,
        features=_feature_table(result),
        path_caption=_path_caption(strengths, coefs, names),
        method=f"{options.folds}-fold cross-validation, stratified; features "
        "standardized with the training part of each fold; Adam at rate 0.01, batches "
        f"of 64, {options.epochs} epochs; models with penalties train under "
        "<code>Proximal(Adam)</code>. Every fit of a fold starts from the same "
        "initial weights and sees the same batches. The strengths were set by hand, "
        "not tuned on these folds in an inner loop, so the best row is a little "
        "optimistic.",
        code=html.escape(inspect.getsource(candidates)),
        footer=f"kerasreg {kerasreg.__version__}, Keras {keras.__version__}, Python "
        f"{platform.python_version()}, seed {options.seed}, {seconds:.0f} seconds. "
        "Made by <code>python -m kerasreg.demo</code>.",
    )


def findings(result):
    """Puts the comparison into sentences, each computed from its numbers.

    Args:
        result: The `Comparison`, its first row the baseline.

    Returns:
        A list of strings.
    """
    baseline, *others = result.rows
    ratio = baseline.val_loss / max(baseline.train_loss, 1e-9)
    verdict = "it overfits" if ratio > 2 else "it hardly overfits"
    texts = [
        f"Without a penalty the loss is {baseline.train_loss:.3f} on training and "
        f"{baseline.val_loss:.3f} on validation data: {verdict}."
    ]
    for row in others:
        name = row.name[0].upper() + row.name[1:]
        if row.diverged or baseline.diverged:
            texts.append(f"{name}: no comparison, a fit diverged.")
            continue
        change = row.val_loss / baseline.val_loss - 1
        wins = sum(
            a["val_loss"] < b["val_loss"]
            for a, b in zip(row.folds, baseline.folds, strict=True)
        )
        text = (
            f"{name}: validation loss {change:+.0%} against the baseline, lower in "
            f"{wins} of {len(row.folds)} folds"
        ).replace("-", "−")
        if row.zeros:
            text += (
                f"; {row.zeros_share:.0%} of the weights are exactly zero and "
                f"{row.features} of {len(result.feature_names)} features stay"
            )
        texts.append(f"{text}.")
    return texts + _ties(result)


def _ties(result):
    """Says which rows the folds cannot tell from the best one."""
    best = result.best and result[result.best]
    if best is None:
        return ["Every row diverged in some fit."]
    tied = []
    for row in result:
        pairs = zip(row.folds, best.folds, strict=True)
        worse = np.array([a["val_loss"] - b["val_loss"] for a, b in pairs])
        if row is not best and worse.mean() <= worse.std(ddof=1) / len(worse) ** 0.5:
            tied.append(row.name)
    text = (
        f"The lowest mean validation loss is that of {best.name} ({best.val_loss:.3f})."
    )
    if tied:
        text += (
            f" Within one standard error of the difference, {len(worse)} folds cannot "
            f"tell it from: {', '.join(tied)}."
        )
    return [text]


def _cards(result):
    sound = [row for row in result if not row.diverged]
    if not sound:
        return ""
    baseline, best = result.rows[0], result[result.best]
    sparsest = max(sound, key=lambda row: row.zeros_share)
    fewest = min(sound, key=lambda row: row.features)
    usual = "-" if baseline.diverged else f"{baseline.val_metric:.1%}"
    cards = [
        (f"{baseline.val_loss:.3f}", "validation loss without a penalty"),
        (f"{best.val_loss:.3f}", f"validation loss of the best row, {best.name}"),
        (
            f"{sparsest.zeros_share:.0%}",
            f"of the weights exactly 0 with {sparsest.name}",
        ),
        (
            f"{fewest.features} of {len(result.feature_names)}",
            f"features kept by {fewest.name}, at a validation accuracy of "
            f"{fewest.val_metric:.1%} (baseline {usual})",
        ),
    ]
    return "".join(
        f'<div class="card"><b>{html.escape(number)}</b>'
        f"<span>{html.escape(text)}</span></div>"
        for number, text in cards
    )


def _table(result):
    header, *lines = result.cells()
    rows = "".join(
        f'<tr class="{"best" if line[0] == result.best else "row"}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in line)
        + "</tr>"
        for line in lines
    )
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    return f"<table><tr>{head}</tr>{rows}</table>"


def _feature_table(result):
    names = _sparse(result)
    if not names:
        return "<p>No penalty dropped a feature.</p>"
    counts = {name: result.selection_counts(name) for name in names}
    final = {name: set(result.selected(name)) for name in names}
    order = sorted(
        (f for f in result.feature_names if any(f in final[n] for n in names)),
        key=lambda f: -sum(counts[n].get(f, 0) + (f in final[n]) for n in names),
    )
    rows = []
    for feature in order:
        cells = [f"<td>{html.escape(feature)}</td>"]
        for name in names:
            count = counts[name].get(feature, 0)
            shade = 0.35 + 0.65 * count / len(result[name].folds)
            cells.append(
                f'<td class="in" style="background: rgb(0 114 178 / {shade:.0%})">'
                f"{count}</td>"
                if feature in final[name]
                else f'<td class="out">{count or "·"}</td>'
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *names])
    return f'<table class="features"><tr>{head}</tr>{"".join(rows)}</table>'


def _path_caption(strengths, coefs, names):
    first = next((c for c in coefs if c.any()), coefs[-1])
    entered = [names[j] for j in np.flatnonzero(first)]
    return (
        "A logistic regression with an L1 penalty on the standardized features, solved "
        f"at {len(strengths)} strengths, each started from the last solution. At "
        f"{strengths[0]:.2g} and above every coefficient is zero. First to enter: "
        f"{html.escape(', '.join(entered))}. At the weak end "
        f"{np.count_nonzero(coefs[-1])} of {len(names)} coefficients are not zero."
    )


def _embed(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


if __name__ == "__main__":
    main()
