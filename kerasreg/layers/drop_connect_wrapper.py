"""DropConnect for the weights of any Keras layer."""

import functools
import inspect
import itertools
import math

import keras
from keras import ops

from kerasreg.layers.copies import build_layer, copy_layer
from kerasreg.layers.masks import batch_mask, check_rate
from kerasreg.layers.noise import drawn, noisy
from kerasreg.layers.substitution import Substitution
from kerasreg.random import next_seed
from kerasreg.regularizers.sites import find_sites, names_weight


def _of_layer(name):
    """A property of the layer inside; there is none if the layer has none."""

    def get(self):
        return getattr(self.layer, name)

    def set_(self, value):
        setattr(self.layer, name, value)

    return property(get, set_, doc=f"`{name}` of the layer inside.")


@keras.saving.register_keras_serializable(package="kerasreg")
class DropConnect(keras.layers.Wrapper):
    """Drops single weights of any layer in training: `W·M / (1 − rate)`.

    Each call draws one mask for each chosen weight, with entries
    `M ~ Bernoulli(1 − rate)`, independent of each other (to within a correlation of
    1e-4 in groups of eight) and the same for all examples of the batch. In a
    recurrent layer it is the same at all time steps.

    Kept weights are scaled up in training, as `keras.layers.Dropout` does with
    units. At inference the layer is used as it is, so it predicts the same when it
    is taken out of the wrapper. (`DropConnectDense` and the convolutions
    like it follow the paper instead: they do not scale in training, have a mask for
    each example, and average over masks at inference.)

    The weights are the layer's own: gradients reach them through the mask,
    penalties on them see them whole, and what is saved is not masked.

    The wrapper takes the arguments of the layer's call. With `Bidirectional`, either
    order will do; inside `TimeDistributed` each time step would have masks of its
    own, so wrap that from outside.

    Args:
        layer: A `keras.layers.Layer`, built or not: `Dense`, `LSTM`, `Embedding`,
            `MultiHeadAttention`, a model, ... An `Embedding` drops single entries
            of its whole table, so its gradient is as large as the table.
        rate: Number in [0, 1): the probability of dropping a weight.
        weights: Which weights have noise: a glob pattern or a list of them, each
            matched against the name of a weight (`"recurrent_kernel"`) and the end
            of its path (`"lstm_cell/*kernel"`). `None`: every kernel and embedding,
            but no bias and no weight of a normalization layer.
        seed: Integer, for reproducible masks.
        **kwargs: Arguments of `keras.layers.Layer`. The layer inside keeps its own
            dtype policy.

    Call arguments:
        Those of the layer, and `training`, a Python boolean: whether to draw masks.

    Raises:
        ValueError: If `rate` is out of range or `layer` is a recurrent cell, whose
            mask would change at each time step; when the layer is built, if it has
            no such weight.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> from kerasreg.layers import DropConnect
    >>> lstm = keras.layers.LSTM(8)
    >>> layer = DropConnect(lstm, rate=0.5, weights="recurrent_kernel")
    >>> x = keras.random.normal((2, 5, 3))
    >>> bool(keras.ops.all(layer(x) == lstm(x)))
    True
    >>> bool(keras.ops.all(layer(x, training=True) == lstm(x)))
    False

    References: Wan, Zeiler, Zhang, Le Cun & Fergus 2013, "Regularization of neural
    networks using DropConnect"; Merity, Keskar & Socher 2018, "Regularizing and
    optimizing LSTM language models" (arXiv 1708.02182), section 2: recurrent weights.
    """

    def __init__(self, layer, rate=0.5, weights=None, seed=None, **kwargs):
        _check_layer(layer)
        # Keras reads these signatures to sort arguments, masks and shapes.
        self.__dict__["call"] = _with_signature(self.call, layer.call, "training")
        self.__dict__["build"] = _with_signature(self.build, layer.build)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, autocast=False, **kwargs)
        self.rate = check_rate(rate)
        self.weight_patterns = _check_patterns(weights)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = layer.supports_masking

    @property
    def variable_dtype(self):
        """The compute dtype: the wrapper itself has no variables.

        Were they to differ, Keras would round the layer's weights before the mask.
        """
        return self.compute_dtype

    def build(self, *shapes, **named_shapes):
        """Build the layer inside from the shapes of its inputs."""
        if not self.layer.built:
            build_layer(self.layer, *shapes, **named_shapes)
        self._chosen()

    def get_build_config(self):
        """The shapes that the layer inside was built with."""
        return self.layer.get_build_config()

    def call(self, *args, training=None, **kwargs):
        """Call the layer inside, with masked weights in training."""
        if training is not None:
            kwargs["training"] = training
        if not (noisy(training) and self.rate):
            return self.layer(*args, **kwargs)
        draws = drawn(self)
        masked = self._masked() if draws is None else self._pairs(draws)
        with Substitution(masked, self):
            return self.layer(*args, **kwargs)

    def draw_weights(self):
        """The chosen weights with one mask each, for several calls."""
        return [value for _, value in self._masked()]

    def _pairs(self, draws):
        return list(zip(self._chosen(), draws, strict=True))

    def _masked(self):
        """Pairs of a variable and its masked value."""
        keep = 1.0 - self.rate
        variables = self._chosen()
        shapes = [tuple(variable.shape) for variable in variables]
        masks = draw_masks(
            shapes, keep, next_seed(self.seed_generator), variables[0].value
        )
        return [
            (variable, ops.where(mask, variable.value / keep, 0))
            for variable, mask in zip(variables, masks, strict=True)
        ]

    def _chosen(self):
        """The variables that have noise, in the order of the layer's weights."""
        above = (self.layer.path or "").rpartition("/")[0]
        sites = find_sites(self.layer)
        for site in sites:
            site.path = site.path.removeprefix(f"{above}/")
        patterns = self.weight_patterns
        if patterns is None:
            chosen = [site for site in sites if site.by_default]
            unmatched = [] if chosen else [None]
        else:
            named = [[s for s in sites if names_weight(p, s)] for p in patterns]
            chosen = [s for s in sites if any(s in some for some in named)]
            unmatched = [p for p, some in zip(patterns, named, strict=True) if not some]
        if unmatched:
            raise ValueError(
                "Invalid value for argument `weights`. Expected patterns that match a "
                f"weight. Received: {unmatched[0]!r}, which matches none. The layer "
                f"has {[site.path for site in sites]}."
            )
        return [site.variable for site in chosen]

    def compute_mask(self, *args, **kwargs):
        """The mask of the layer inside."""
        return self.layer.compute_mask(*args, **kwargs)

    def compute_output_shape(self, *args, **kwargs):
        """The output shape of the layer inside."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        """Shape and dtype of the output of the layer inside."""
        if "training" not in inspect.signature(self.layer.call).parameters:
            kwargs.pop("training", None)
        return self.layer.compute_output_spec(*args, **kwargs)

    # What `SpectralNormalization` asks for.
    kernel = _of_layer("kernel")
    embeddings = _of_layer("embeddings")
    # What `Bidirectional` asks a recurrent layer for, and sets.
    go_backwards = _of_layer("go_backwards")
    stateful = _of_layer("stateful")
    return_sequences = _of_layer("return_sequences")
    return_state = _of_layer("return_state")
    zero_output_for_mask = _of_layer("zero_output_for_mask")
    states = _of_layer("states")
    reset_state = _of_layer("reset_state")
    reset_states = _of_layer("reset_states")

    def to_plain(self):
        """A copy of the layer inside, with the name of the wrapper."""
        return copy_layer(self.layer, name=self.name)

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "rate": self.rate,
            "weights": self.weight_patterns,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Make the layer of `get_config`."""
        config = dict(config)
        layer = config.pop("layer")
        if "go_backwards" in config:  # `Bidirectional` makes its second layer
            changed = {**layer["config"], "go_backwards": config.pop("go_backwards")}
            layer = {**layer, "config": changed}
            if config["seed"] is not None:  # masks of its own
                config["seed"] += 1
        layer = keras.saving.deserialize_keras_object(layer, custom_objects)
        return cls(layer, **config)


def draw_masks(shapes, keep, seed, variable):
    """Boolean masks of these shapes, in one draw: each draw has a fixed cost.

    Args:
        shapes: List of tuples of integers.
        keep: Probability of `True`.
        seed: What `next_seed` returned.
        variable: Of `batch_mask`.
    """
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    drawn = batch_mask((ends[-1],), keep, seed, variable)
    return [
        ops.reshape(drawn[start:end], shape)
        for start, end, shape in zip([0, *ends], ends, shapes, strict=False)
    ]


def _with_signature(method, like, *more):
    """`method` with the signature of `like`, and further arguments by keyword."""

    @functools.wraps(method)
    def function(*args, **kwargs):
        return method(*args, **kwargs)

    parameters = dict(inspect.signature(like).parameters)
    kind = inspect.Parameter.KEYWORD_ONLY
    for name in more:
        parameters.setdefault(name, inspect.Parameter(name, kind, default=None))
    in_order = sorted(parameters.values(), key=lambda parameter: parameter.kind)
    vars(function)["__signature__"] = inspect.Signature(in_order)
    return function


def _check_layer(layer):
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            "Invalid value for argument `layer`. Expected a keras.layers.Layer. "
            f"Received: layer={layer!r}"
        )
    if hasattr(layer, "state_size") and not hasattr(layer, "return_sequences"):
        raise ValueError(
            "Invalid value for argument `layer`. Expected no recurrent cell, whose "
            "masks would change at each time step: wrap the layer around it, "
            f"`DropConnect(RNN(cell))`. Received: layer={layer!r}"
        )


def _check_patterns(weights):
    if weights is None:
        return None
    patterns = [weights] if isinstance(weights, str) else weights
    if not isinstance(patterns, list | tuple) or not all(
        isinstance(pattern, str) for pattern in patterns
    ):
        raise TypeError(
            "Invalid value for argument `weights`. Expected a glob pattern, a list of "
            f"them or None. Received: weights={weights!r}"
        )
    if not patterns:
        raise ValueError(
            "Invalid value for argument `weights`. Expected at least one pattern, or "
            f"None for all kernels. Received: weights={weights!r}"
        )
    return list(patterns)
