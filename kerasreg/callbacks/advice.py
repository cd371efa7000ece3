"""What the curves of a training say about its penalties, in words."""

import math

import numpy as np

from kerasreg.callbacks.record import Record

# A trend needs this many points after the turn; a judgement of the whole run, more.
_TAIL, _ENOUGH = 3, 5

# A loss has risen if by this share of its lowest value, and of the way it came down,
# beyond what its noise explains (in standard deviations of a point).
_RISE, _WAY, _NOISE = 0.03, 0.01, 3.0

# And if later points are above earlier ones as often as this (Kendall's tau, of at
# most so many points, without pairs that differ by less than this share of the rise).
_CLIMB, _PAIRS, _LEVEL = 0.6, 200, 0.1

# It has hardly fallen if less than this share of its first value.
_HARDLY = 0.1

# A gradient ratio under which a penalty does nothing, and over which it leads.
_WEAK, _LEADS = 1e-4, 0.5

# The share of zeros that is worth a word if the losses are high.
_SPARSE = 0.95


def advice(history, *, baseline=None):
    """Say what a person would say who looks at the curves of a training.

    It knows the history alone, as `RegularizationMonitor` fills it; of a plain one it
    takes `loss` and `val_loss`. In this order:

    * a loss that is NaN or infinite (then nothing else);
    * weights that are all zero; both losses rising, or hardly falling under a penalty
      that leads: the penalty with the largest gradient ratio is likely too strong. If
      the penalties rise as well and their strengths do not, it is the learning rate;
    * the validation loss rising while the training loss does not: overfitting;
    * penalties whose gradient is below 1e-4 of the data's: too weak to matter;
    * a KL above the data loss while that rises or hardly falls;
    * with a baseline, a validation loss above that of the baseline;
    * penalties but no validation loss.

    A rise counts if it is more than 3 % of the lowest value and more than the noise of
    the curve explains, so short or noisy runs get no advice, nor do healthy ones. These
    are rules of thumb: compare with a baseline, a `fit` of the same model without
    penalties, before you believe them.

    Args:
        history: What `fit` returned, or its `history` dict.
        baseline: The same of a `fit` without penalties, or `None`.

    Returns:
        A list of sentences, empty if there is nothing to say.

    Raises:
        ValueError: If one is no history, or has no epoch.

    Example:

    >>> from kerasreg.callbacks import advice
    >>> losses = [0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    >>> validation = [0.9, 0.8, 0.7, 0.6, 0.6, 0.7, 0.8, 0.9]
    >>> print(*advice({"data_loss": losses, "val_data_loss": validation}))
    Since epoch 4 the validation loss rises while the training loss falls: overfitting.
    Add a penalty, or stop at epoch 4.
    """
    record = Record(history)
    baseline = None if baseline is None else Record(baseline)
    broken = _not_finite(record)
    if broken:
        return broken
    empty = _all_zero(record)
    return [
        *empty,
        *(_too_strong(record, baseline) if not empty else []),
        *_overfitting(record),
        *_too_weak(record),
        *_kl(record),
        *_against_baseline(record, baseline),
        *_no_validation(record),
    ]


def _not_finite(record):
    found = {}
    for name in ("data_loss", "loss", "penalty", "kl", "val_data_loss", "val_loss"):
        if name in record:
            epochs, values = record.curve(name)
            bad = ~np.isfinite(values)
            if bad.any():
                start = epochs[bad][0]
                stays = bad[np.argmax(bad) :].all()
                found[name] = (
                    start,
                    f"from epoch {start} on" if stays else (f"in epoch {start}"),
                )
    if not found:
        return []
    # Of several, the first in the order above.
    name = min(found, key=lambda name: found[name][0])
    where = "the validation data" if name.startswith("val_") else "the data"
    return [
        f"`{name}` is NaN or infinite {found[name][1]}. Look for NaN in "
        f"{where}, lower the learning rate, or clip the gradient (`clipnorm`)."
    ]


def _all_zero(record):
    empty = [name for name, value in _last(record, "sparsity").items() if value == 1]
    if not empty:
        return []
    its = "their strengths" if len(empty) > 1 else "its strength"
    return [
        f"All weights of {named(empty)} are zero: nothing passes through. Lower {its}."
    ]


def _too_strong(record, baseline):
    """Both losses rose, or never fell, and a penalty is to blame."""
    curves = _pair(record)
    if curves is None:
        return []
    epochs, train, validation = curves
    turn = max(train.lowest, validation.lowest)
    if train.rose and validation.rose and len(epochs) - turn > _TAIL:
        count = epochs[-1] - epochs[turn]
        return _rising(record, f"Both losses rose for {count} epochs", epochs[turn])
    names = _leading(record)
    if not names or record.resumed or len(epochs) < _ENOUGH:
        return []
    if not (train.hardly_fell and validation.hardly_fell):
        return []
    if baseline is not None:
        theirs = _best(baseline)
        if _best(record) <= theirs + _RISE * abs(theirs):
            return []
    if "penalty" in record and not _is_sparse(record, names[0]):
        # Where training has ended, its gradient is the data's, however weak it is.
        weight = _recent(record.curve("penalty")[1])
        if weight < _WEAK * abs(_recent(train.values)):
            return []
    return [
        f"Both losses hardly fell in {len(record)} epochs: "
        f"{_blame(record, names[0])} is likely too strong. {_REMEDY}"
    ]


_REMEDY = "Lower it, and see how low the losses go without penalties (a baseline)."


def _rising(record, what, turn):
    """Whose fault it is that both losses rise since an epoch."""
    if _changed(record, "kl_factor", turn) > 0:
        return []  # a warm-up of the KL trades data loss for it, as it should
    strengths = record.units("strength")
    raised = [n for n in strengths if _changed(record, f"strength/{n}", turn) > 0]
    if raised:
        return [
            f"{what}, as the strength of {named(raised)} did: it is likely too strong "
            "by now. Limit it, or lower the target of its policy."
        ]
    penalized = strengths or record.units("gradient_ratio") or "penalty" in record
    if not penalized or _changed(record, "penalty", turn) > 0:
        return [f"{what}: the learning rate is likely too high."]
    ranked = _ranked(record, "gradient_ratio")
    blame = _blame(record, next(iter(ranked))) if ranked else "the penalty"
    return [f"{what}: {blame} is likely too strong. {_REMEDY}"]


def _overfitting(record):
    curves = _pair(record)
    if curves is None:
        return []
    epochs, train, validation = curves
    if not validation.rose or train.rose:
        return []
    best = epochs[np.argmin(validation.values)]
    verb = "falls" if train.end < train.smooth[validation.lowest] else "stands still"
    ranked = _ranked(record, "gradient_ratio")
    remedy = "Add a penalty"
    if any(_changed(record, f"strength/{name}", epochs[0]) for name in ranked):
        remedy = "Give the policy that sets the strengths a stronger aim"
    elif ranked:
        *_, weakest = ranked
        remedy = f"Raise the strength of `{weakest}`"
        if len(ranked) > 1:
            times = _digits(ranked[weakest])
            remedy += f" (its penalty pulls least, {times} times as hard as the data)"
    elif record.units("strength") or "penalty" in record:
        remedy = "Raise the strengths"
    return [
        f"Since epoch {best} the validation loss rises while the training loss {verb}: "
        f"overfitting. {remedy}, or stop at epoch {best}."
    ]


def _too_weak(record):
    alive = _last(record, "norm")
    strengths = _last(record, "strength")
    weak = {
        name: ratio
        for name, ratio in _ranked(record, "gradient_ratio", share=1 / 2).items()
        if 0 < ratio < _WEAK and alive.get(name, 1) and strengths.get(name, 1)
    }
    if not weak:
        return []
    several, most = len(weak) > 1, _digits(max(weak.values()))
    return [
        f"The penalt{'ies' if several else 'y'} on {named(weak)} "
        f"{'are' if several else 'is'} too weak to matter: "
        f"{'their gradients are' if several else 'its gradient is'} "
        f"{'at most ' if several else ''}{most} times the data's."
    ]


def _kl(record):
    """The KL wins over the data: it is larger, and the data loss got no better."""
    name, _ = record.losses()
    if "kl" not in record or name is None or len(record) < _ENOUGH:
        return []
    kl, data = record.curve("kl")[1], record.curve(name)[1]
    curve = _Curve(data - kl if name == "loss" else data)
    large, small = _recent(kl), _recent(curve.values)
    if not 0 < small < large or not (curve.rose or curve.hardly_fell):
        return []
    remedy = "Let it come in slowly (KLWarmup)"
    if "kl_factor" in record:
        remedy = "Give the KLWarmup more epochs, or lower `kl_strength`"
    return [
        f"The KL ({_digits(large)}) is larger than the data loss ({_digits(small)}), "
        f"which {'rose' if curve.rose else 'hardly fell'}. {remedy}, and check that "
        "`num_examples` is the number of training examples."
    ]


def _against_baseline(record, baseline):
    if baseline is None:
        return []
    ours, theirs = _best(record), _best(baseline)
    if not math.isfinite(ours) or not ours > theirs + _RISE * abs(theirs):
        return []
    ranked = _ranked(record, "gradient_ratio")
    first = f", that of `{next(iter(ranked))}` first" if ranked else ""
    return [
        f"The baseline reaches a validation loss of {theirs:.4g}, this model "
        f"{ours:.4g}: the penalties cost more than they bring. Lower them{first}."
    ]


def _no_validation(record):
    penalized = "penalty" in record or record.units("strength")
    if not penalized or record.losses()[1] is not None:
        return []
    return [
        "Without validation data nothing tells whether the penalties help. Give `fit` "
        "`validation_data` or `validation_split`."
    ]


class _Curve:
    """A loss curve: where it is lowest, and whether it has risen since."""

    def __init__(self, values):
        self.values = values
        padded = np.pad(values, 1, mode="edge")
        self.smooth = np.median([padded[:-2], values, padded[2:]], axis=0)
        near = int(np.argmin(self.smooth))
        low, first = self.smooth[near], max(near - 1, 0)
        self.lowest = first + int(np.argmin(values[first : near + 2]))
        self.end = float(np.median(values[-_TAIL:]))
        least = max(_RISE * abs(low), _WAY * (values[0] - low))
        after = len(values) - 1 - self.lowest
        far = self.end - low > least + _NOISE * self._noise()
        self.rose = after >= _TAIL and far and self._climbs()
        fell = values[0] - self.end
        self.hardly_fell = fell < _HARDLY * abs(values[0])

    def _climbs(self):
        """Whether it has gone up most of the time since: noise wanders to and fro."""
        tail = self.smooth[self.lowest :]
        tail = tail[:: 1 + len(tail) // _PAIRS]
        later, earlier = np.tril_indices(len(tail), -1)
        steps = tail[later] - tail[earlier]
        steps = steps[np.abs(steps) > _LEVEL * (self.end - self.smooth.min())]
        return steps.size > 0 and np.mean(np.sign(steps)) > _CLIMB

    def _noise(self):
        """The standard deviation of a point, from third differences: trends cancel."""
        if len(self.values) < _ENOUGH:
            return 0.0
        third = np.abs(np.diff(self.values, n=3))
        return 1.4826 * float(np.median(third)) / math.sqrt(20.0)


def _pair(record):
    """The training and validation curves at the epochs with validation, or `None`."""
    name, validation = record.losses()
    if validation is None:
        return None
    epochs, values = record.curve(validation)
    known = dict(zip(*record.curve(name), strict=True))
    if len(epochs) <= _TAIL or not set(epochs) <= set(known):
        return None
    return epochs, _Curve(np.array([known[e] for e in epochs])), _Curve(values)


def _recent(values, share=1 / 3):
    """The median of the last part of a curve, numbers that are not finite left out."""
    tail = values[-max(1, math.ceil(len(values) * share)) :]
    tail = tail[np.isfinite(tail)]
    return float(np.median(tail)) if tail.size else math.nan


def _ranked(record, quantity, share=1 / 3):
    """The units by what they had of late, the largest first."""
    recent = {
        name: _recent(values, share)
        for name, (_, values) in record.units(quantity).items()
    }
    known = {name: value for name, value in recent.items() if math.isfinite(value)}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


def _leading(record):
    """The units whose penalty pulls about as hard as the data, or that are sparse."""
    ratios = {
        name: _recent(values, share=1.0)
        for name, (_, values) in record.units("gradient_ratio").items()
    }
    names = [name for name, ratio in ratios.items() if ratio >= _LEADS]
    names.sort(key=lambda name: -ratios[name])
    zeros = _last(record, "sparsity")
    sparse = [name for name, zero in zeros.items() if zero >= _SPARSE]
    return names + [name for name in sparse if name not in names]


def _is_sparse(record, name):
    return _last(record, "sparsity").get(name, 0.0) >= _SPARSE


def _blame(record, name):
    """A penalty, and what speaks against it."""
    facts = []
    ratio = _ranked(record, "gradient_ratio").get(name)
    if ratio is not None:
        facts.append(f"its gradient is {_digits(ratio)} times the data's")
    zeros = _last(record, "sparsity").get(name, 0.0)
    if zeros >= _SPARSE:
        facts.append(f"{zeros:.0%} of it is zero")
    return f"the penalty on `{name}`" + (f" ({', '.join(facts)})" if facts else "")


def _last(record, quantity):
    return {name: v[-1] for name, (_, v) in record.units(quantity).items()}


def _changed(record, name, turn):
    """By how much a curve rose since an epoch, 0 if it was not logged."""
    if name not in record:
        return 0.0
    epochs, values = record.curve(name)
    before = values[epochs <= turn]
    return values[-1] - before[-1] if before.size else 0.0


def _best(record):
    """The lowest validation loss, infinite without one."""
    _, validation = record.losses()
    return math.inf if validation is None else np.nanmin(record.curve(validation)[1])


def named(names, most=3):
    """Names in a sentence."""
    names = [f"`{name}`" for name in names]
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _digits(number):
    return f"{number:.2g}"
