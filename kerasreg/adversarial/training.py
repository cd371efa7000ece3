"""A model that is trained against an attack."""

import warnings

import keras
from keras import ops, tree

from kerasreg import random
from kerasreg.adversarial import hooks
from kerasreg.adversarial.attack import Attack
from kerasreg.adversarial.losses import divergences
from kerasreg.adversarial.problem import find_layer
from kerasreg.adversarial.samples import samples
from kerasreg.regularizers.base import check_count, check_number

OBJECTIVES = ("adversarial", "mixed", "trades", "vat")
_LOGGED = {
    "adversarial": ("adversarial_loss",),
    "mixed": ("clean_loss", "adversarial_loss"),
    "trades": ("clean_loss", "divergence"),
    "vat": ("clean_loss", "divergence"),
}
_DIVERGENCE = ("trades", "vat")
_WEIGHTS = {"adversarial": 1.0, "mixed": 0.5, "trades": 1.0, "vat": 1.0}


@keras.saving.register_keras_serializable(package="kerasreg")
class AdversarialModel(keras.Model):
    """Train a model on perturbations of its inputs that an attack makes as it goes.

    With `L` the compiled loss, `δ` the attack's perturbation and `D` the
    Kullback-Leibler divergence of predictions (the mean squared distance, without a
    cross-entropy), a step minimizes one of

    * `"adversarial"`: `L(x + δ)` (Madry et al. 2018);
    * `"mixed"`: `(1 − weight)·L(x) + weight·L(x + δ)` (Goodfellow et al. 2015);
    * `"trades"`: `L(x) + weight·D(f(x) ‖ f(x + δ))`, where the attack raises `D`, from
      a random start (Zhang et al. 2019);
    * `"vat"`: `L(x) + weight·D(f(x) ‖ f(x + δ))`, where `f(x)` is held fixed and the
      attack raises `D`: the regularizer needs no labels. For
      `kerasreg.adversarial.VAT` (Miyato et al. 2019);

    each with the model's penalties, counted once. `compile`, `fit`, `evaluate`,
    `predict` and `save` are Keras's; `Proximal`, callbacks, mixed precision and
    `jit_compile` work as for any model. `loss` is what is minimized; logged apart,
    without penalties, are `clean_loss`, `L(x)`, and `adversarial_loss`, `L(x + δ)`, or
    `divergence`. Compiled metrics are those of clean inputs. With `"adversarial"` the
    clean inputs never pass through the network in training mode (that would cost a
    third): `clean_loss` is not logged, and metrics in training are those of perturbed
    inputs. `evaluate`, `predict` and validation are of inputs as they are.

    Sample weights multiply the divergence of `"trades"` as they do the loss. That of
    `"vat"` they leave alone: with examples of weight 0 it learns from inputs without
    labels.

    `adversarial.model` is the model to deploy: save it, and plain Keras loads it.

    **BatchNorm.** The attack sees the network as it will be deployed: in inference
    mode, with moving statistics, which it does not change, and without dropout. The
    passes that enter the loss are in training mode, each with the statistics of its own
    batch, and each moves the moving statistics.

    Args:
        model: A `keras.Model`.
        attack: An `Attack`, such as `FGSM(eps, random_start=True)` or `PGD(eps)`. Can
            be set, or changed, between calls of `fit`.
        objective: `"adversarial"`, `"mixed"`, `"trades"` or `"vat"`.
        weight: Non-negative number; by default 0.5 for `"mixed"`, else 1. A variable:
            set `adversarial.weight` in a running `fit`. `"adversarial"` has none.
        every: Positive integer: the attack runs at every so many steps of the
            optimizer; batches between are trained on as they are. `adversarial_loss`
            and `divergence` are means over attacked batches, NaN without one.
        seed: Integer, for the attack's random numbers.
        **kwargs: `name` and `dtype` of `keras.Model`.

    `fit` checks its data beforehand (of a dataset, the first batch), as a call of the
    attack does.

    Raises:
        ValueError: If an argument is out of range or the objective unknown; by `fit`,
            if targets are missing or inputs are not finite or out of their bounds.
        TypeError: If `model` or `attack` is not one.

    Example:

    >>> import keras
    >>> from kerasreg.adversarial import PGD, AdversarialModel
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((64, 5), seed=0)
    >>> y = keras.ops.cast(x[:, :1] > 0, "float32")
    >>> dense = keras.layers.Dense(1, activation="sigmoid")
    >>> model = keras.Sequential([keras.Input((5,)), dense])
    >>> robust = AdversarialModel(model, PGD(0.1, steps=3))
    >>> robust.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    >>> history = robust.fit(x, y, epochs=2, verbose=0).history
    >>> sorted(history)
    ['accuracy', 'adversarial_loss', 'loss']

    References: Madry et al. 2018, "Towards deep learning models resistant to
    adversarial attacks", eq. 2.1; Goodfellow, Shlens & Szegedy 2015, section 6; Zhang
    et al. 2019, "Theoretically principled trade-off between robustness and accuracy",
    eq. 5 and algorithm 1; Miyato, Maeda, Koyama & Ishii 2019, eq. 8.
    """

    def __init__(
        self,
        model,
        attack,
        objective="adversarial",
        *,
        weight=None,
        every=1,
        seed=0,
        **kwargs,
    ):
        # Inputs go to the model within as they are.
        super().__init__(**{"autocast": False, **kwargs})
        if not isinstance(model, keras.Model) or isinstance(model, AdversarialModel):
            raise TypeError(
                "Invalid value for argument `model`. Expected a keras.Model, no "
                f"AdversarialModel. Received: model={model!r}"
            )
        if objective not in OBJECTIVES:
            raise ValueError(
                "Invalid value for argument `objective`. Expected one of "
                f"{OBJECTIVES}. Received: objective={objective!r}"
            )
        self.model, self.objective = model, objective
        self.attack = attack
        weight = self._check_weight(_WEIGHTS[objective] if weight is None else weight)
        self.every = check_count("every", every)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(
                "Invalid value for argument `seed`. Expected an integer. "
                f"Received: seed={seed!r}"
            )
        self.seed = seed
        self._generator = keras.random.SeedGenerator(seed)
        self._weight = keras.Variable(
            weight, trainable=False, dtype="float32", autocast=False, name="weight"
        )
        # Past Keras's tracking: evaluation has nothing for them.
        object.__setattr__(
            self,
            "_means",
            {name: keras.metrics.Mean(name=name) for name in _LOGGED[objective]},
        )
        self._data_loss, self._traced = None, None
        if type(model).train_step is not keras.Model.train_step or (
            type(model).compute_loss is not keras.Model.compute_loss
        ):
            warnings.warn(
                f"{type(model).__name__} has a `train_step` or `compute_loss` of its "
                "own, which AdversarialModel does not use: it trains by the compiled "
                "loss.",
                stacklevel=2,
            )
        if model.built:
            self.built = True

    @property
    def weight(self):
        """The weight of the adversarial part, a float. Can be set."""
        return float(self._weight.numpy())

    @weight.setter
    def weight(self, value):
        self._weight.assign(self._check_weight(value))

    def _check_weight(self, weight):
        number = check_number("weight", weight)
        if self.objective == "mixed" and number > 1:
            raise ValueError(
                "Invalid value for argument `weight`. Expected a number in [0, 1] for "
                f'objective="mixed". Received: weight={weight!r}'
            )
        return number

    @property
    def attack(self):
        """The attack. Can be set, or changed, between two calls of `fit`."""
        return self._attack

    @attack.setter
    def attack(self, attack):
        self.check_attack(attack)
        self._attack = attack

    def check_attack(self, attack):
        """Raise if an attack does not suit the objective.

        Args:
            attack: What should be an `Attack`.

        Raises:
            TypeError: If it is none.
            ValueError: If it has to begin at random and does not.
        """
        if not isinstance(attack, Attack):
            raise TypeError(
                "Invalid value for argument `attack`. Expected an attack such as "
                f"kerasreg.adversarial.PGD. Received: attack={attack!r}"
            )
        raises = self.objective in _DIVERGENCE and attack.needs_labels
        if raises and not getattr(attack, "random_start", True):
            raise ValueError(
                "Invalid value for argument `attack`. Expected one with random_start="
                f'True for objective="{self.objective}": the divergence that it raises '
                f"has no slope at x. Received: attack={attack!r}"
            )

    def make_train_function(self, force=False):
        """Trace the step anew if the attack is another one, or was changed."""
        attack = (self.attack, self.attack.changes)
        force = force or attack != self._traced
        object.__setattr__(self, "_traced", attack)
        return super().make_train_function(force)

    def fit(self, x=None, y=None, *args, **kwargs):
        """Train, as `keras.Model.fit` does, after a look at the data."""
        for some_x, some_y in samples(x, y):
            self.attack.check(some_x, some_y)
        return super().fit(x, y, *args, **kwargs)

    def call(self, inputs, training=None):
        """The model within."""
        return self.model(inputs, training=training)

    def build(self, input_shape=None):
        """Build the model within, if it is not."""
        if not self.model.built:
            self.model.build(input_shape)
        self.built = True

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The compiled loss and the penalties, as any model's."""
        if self._compile_loss is None:
            self._data_loss = ops.zeros(())
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        self._data_loss = self._compile_loss(y, y_pred, sample_weight)
        added = [self._aggregate_additional_loss(loss) for loss in self.losses]
        return ops.sum([self._data_loss, *added]) if added else self._data_loss

    def _loss_of_attacked(self, y, y_pred, sample_weight):
        """The compiled loss, without a trace in the logged losses of single outputs."""
        variables = list(self._compile_loss.variables)
        before = [ops.copy(variable) for variable in variables]
        loss = self._compile_loss(y, y_pred, sample_weight)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        return loss

    def train_step(self, data):
        """One step on a batch and what the attack makes of it."""
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        due = ops.equal(ops.mod(self.optimizer.iterations, self.every), 0)
        shifted = tree.map_structure(ops.stop_gradient, self._attacked(x, y, due))
        with tf.GradientTape() as tape:
            loss, y_pred, logged = self._objective(x, y, sample_weight, shifted, due)
            self._log(x, loss, logged, due)
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        gradients = tape.gradient(scaled, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return {**logs, **{name: _result(mean) for name, mean in self._means.items()}}

    def _attacked(self, x, y, due):
        """The inputs that the attack makes, or the perturbation of a layer's output."""
        seed = random.next_seed(self._generator)

        def run():
            objective = None
            if self.objective in _DIVERGENCE and self.attack.needs_labels:
                clean = self.model(x, training=False)

                def objective(y_pred):
                    return divergences(self, clean, y_pred)

            return self.attack.attack(
                self.model, x, y, seed, objective=objective, compiled=self
            )

        if self.every == 1:
            return run()
        return ops.cond(due, run, lambda: self._unchanged(x))

    def _unchanged(self, x):
        """What the attack would return if it changed nothing."""
        layer = find_layer(self.model, self.attack.on)
        return x if layer is None else 0 * hooks.output_of(self.model, layer, x)

    def _shifted(self, x, shifted):
        """Predictions for what the attack made, in training mode."""
        layer = find_layer(self.model, self.attack.on)
        if layer is None:
            return self(shifted, training=True)
        with hooks.perturbed(layer, shifted):
            return self(x, training=True)

    def _objective(self, x, y, sample_weight, shifted, due):
        """Loss to minimize, predictions for the metrics, and what is to be logged.

        A batch that is not due is trained on as it is: dropout alone would make its two
        passes differ.
        """
        if self.objective == "adversarial":
            y_pred = self._shifted(x, shifted)
            loss = self._compute_loss(x, y, y_pred, sample_weight, training=True)
            return loss, y_pred, [self._data_loss]
        y_pred = self(x, training=True)
        loss = self._compute_loss(x, y, y_pred, sample_weight, training=True)
        clean = self._data_loss
        weight = ops.cast(ops.reshape(self._weight, ()), loss.dtype)
        weight = weight * ops.cast(due, loss.dtype)
        other = self._shifted(x, shifted)
        if self.objective == "mixed":
            added = self._loss_of_attacked(y, other, sample_weight)
            return loss + weight * (added - clean), y_pred, [clean, added]
        fixed = y_pred
        if self.objective == "vat":
            fixed = tree.map_structure(ops.stop_gradient, y_pred)
            sample_weight = None
        values = divergences(self, fixed, other, sample_weight=sample_weight)
        # Keras adds the losses of replicas up.
        added = ops.mean(values) / self.distribute_strategy.num_replicas_in_sync
        return loss + weight * ops.cast(added, loss.dtype), y_pred, [clean, added]

    def _log(self, x, loss, logged, due):
        replicas = self.distribute_strategy.num_replicas_in_sync
        examples = ops.shape(tree.flatten(x)[0])[0]
        self._loss_tracker.update_state(loss * replicas, sample_weight=examples)
        attacked = examples * ops.cast(due, "int32")
        for (name, mean), value in zip(self._means.items(), logged, strict=True):
            count = examples if name == "clean_loss" else attacked
            mean.update_state(value * replicas, sample_weight=count)

    def reset_metrics(self):
        """Begin an epoch: Keras's metrics, and the losses that are logged apart."""
        super().reset_metrics()
        for mean in self._means.values():
            mean.reset_state()

    def get_config(self):
        """The model, the attack and the other arguments."""
        serialize = keras.saving.serialize_keras_object
        return {
            "model": serialize(self.model),
            "attack": serialize(self.attack),
            "objective": self.objective,
            "weight": self.weight,
            "every": self.every,
            "seed": self.seed,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Make the model of `get_config`."""
        config = dict(config)
        for name in ("model", "attack"):
            config[name] = keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
        return cls(**config)


def _result(mean):
    """The mean of what was logged; NaN if nothing was."""
    return ops.where(mean.count > 0, mean.result(), float("nan"))
