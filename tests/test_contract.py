"""Runs the shared contract over the table of public objects."""

import inspect
import pickle
import subprocess
import sys

import pytest

from kerasreg.regularizers import ElasticNet
from tests import contract
from tests.cases import (
    ATTACKS,
    CALLBACKS,
    CASES,
    INNER_OPTIMIZERS,
    KINDS,
    LAYERS,
    METRICS,
    OPTIMIZERS,
    POLICIES,
)
from tests.cases import REGULARIZERS as PENALTIES
from tests.exhaustive import some
from tests.positions import POSITIONS

regularizers = pytest.mark.parametrize("case", PENALTIES, ids=str)
# One of each way to be stored, to have a proximal map, and to be attached.
some_regularizers = pytest.mark.parametrize(
    "case", some(PENALTIES, "ElasticNet", "MCP", "GroupLasso", "Anchored", "Prior")
)
optimizers = pytest.mark.parametrize("case", OPTIMIZERS, ids=str)
layers = pytest.mark.parametrize("case", LAYERS, ids=str)
# Convolutions in one and three dimensions are those in two but for their shapes.
planar = pytest.mark.parametrize(
    "case", [case for case in LAYERS if not str(case).endswith(("1D", "3D"))], ids=str
)
# One of each family, and of each way to draw.
some_layers = pytest.mark.parametrize(
    "case",
    some(
        LAYERS,
        "BayesianDense",
        "BayesianEmbedding",
        "BayesianLSTM",
        "ConcreteDropout",
        "DropConnectDense",
        "DropConnectConv2D",
        "DropConnect",
        "VariationalDropout",
        "SparseVariationalDense",
    ),
)
# One of each way to draw, for what takes seconds.
few_layers = pytest.mark.parametrize(
    "case",
    some(
        LAYERS,
        "BayesianDense",
        "BayesianLSTM",
        "ConcreteDropout",
        "DropConnectDense",
    ),
)
callbacks = pytest.mark.parametrize("case", CALLBACKS, ids=str)
metrics = pytest.mark.parametrize("case", METRICS, ids=str)
policies = pytest.mark.parametrize("case", POLICIES, ids=str)
attacks = pytest.mark.parametrize("case", ATTACKS, ids=str)
norms = pytest.mark.parametrize("norm", ["inf", 2, 1])
inner_optimizers = pytest.mark.parametrize(
    "inner", INNER_OPTIMIZERS.values(), ids=INNER_OPTIMIZERS.keys()
)
some_inner_optimizers = pytest.mark.parametrize(
    "inner", some(INNER_OPTIMIZERS, "SGD", "momentum", "Adam", "Adagrad")
)
half = pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
xla = pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])


def _penalty():
    return ElasticNet(l1=0.01, l2=0.01)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_row(case):
    assert case.kind in KINDS
    assert inspect.getdoc(case.public)


@regularizers
@pytest.mark.parametrize(
    "check",
    [
        contract.regularizers.check_config_round_trip,
        contract.regularizers.check_identifiers,
        contract.regularizers.check_strength,
        contract.regularizers.check_clone,
        contract.regularizers.check_not_a_weight,
        contract.regularizers.check_eager_and_traced,
        contract.regularizers.check_gradient_at_zero,
        contract.regularizers.check_copies,
        contract.regularizers.check_prox_minimizes,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_regularizer(case, check):
    check(case)


@some_regularizers
@pytest.mark.parametrize(
    "check",
    [
        contract.regularizers.check_half_precision,
        contract.regularizers.check_gradient_accumulation,
        contract.regularizers.check_reproducible,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_regularizer_in_fit(case, check):
    check(case)


@some_regularizers
@pytest.mark.parametrize(
    "check",
    [
        contract.regularizers.check_save_and_load,
        contract.regularizers.check_weights_file,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_regularizer_on_disk(case, check, tmp_path):
    check(case, tmp_path)


@xla
@some_regularizers
def test_regularizer_live_strength(case, jit_compile):
    contract.regularizers.check_live_strength(case, jit_compile)


@some_regularizers
def test_regularizer_two_devices(case, two_cpus):
    contract.regularizers.check_two_devices(case, two_cpus)


def test_regularizers_travel_to_another_process():
    penalties = [case.make() for case in PENALTIES]
    for penalty in penalties:
        penalty.strength = 0.25
    program = (
        "import pickle, sys\n"
        "for p in pickle.load(sys.stdin.buffer):\n"
        "    print(type(p).__name__, p.strength, sep=' ')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(penalties),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [f"{c} 0.25" for c in PENALTIES]


@pytest.mark.parametrize(  # one of each kind
    "case",
    [
        case
        for case in PENALTIES
        if str(case) in ("ElasticNet", "GroupLasso", "Anchored")
    ],
    ids=str,
)
@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_position(case, position):
    vectors = ("beta_regularizer", "bias_regularizer", "gamma_regularizer")
    if "rank 2" in case.labels and position.argument in vectors:
        layer = position.make(case.make())
        layer.build(position.shape)
        if min(len(w.shape) for w in layer.weights if w.regularizer) < 2:
            with pytest.raises(ValueError, match="axis"):
                sum(layer.losses)
            return
    if "anchored" in case.labels and position.shared > 1:
        # One anchor cannot serve weights of several shapes; `regularize` copies.
        layer = position.make(case.make())
        layer.build(position.shape)
        with pytest.raises(ValueError, match="Expected the anchor's shape"):
            sum(layer.losses)
        return
    contract.regularizers.check_position(case, position)


@inner_optimizers
@optimizers
def test_optimizer_config(case, inner):
    contract.optimizers.check_config(case, inner)


@some_inner_optimizers
@optimizers
def test_optimizer_save(case, inner, tmp_path):
    contract.optimizers.check_save(case, inner, _penalty(), tmp_path)


@xla
@some_inner_optimizers
@optimizers
def test_optimizer_trace(case, inner, jit_compile):
    contract.optimizers.check_trace(case, inner, _penalty(), jit_compile)


@some_inner_optimizers
@optimizers
@pytest.mark.parametrize(
    "check",
    [
        contract.optimizers.check_zeros,
        contract.optimizers.check_accumulation,
        contract.optimizers.check_half_precision,
        contract.optimizers.check_reproducible,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_optimizer(case, inner, check):
    check(case, inner, _penalty())


@some_inner_optimizers
@optimizers
def test_optimizer_two_devices(case, inner, two_cpus):
    contract.optimizers.check_two_devices(case, inner, _penalty(), two_cpus)


@xla
@some_regularizers
def test_regularizer_under_optimizers(case, jit_compile):
    for optimizer in OPTIMIZERS:
        contract.optimizers.check_trace(
            optimizer, INNER_OPTIMIZERS["Adam"], case.make(), jit_compile
        )


@some_regularizers
def test_regularizer_under_saved_optimizers(case, tmp_path):
    for optimizer in OPTIMIZERS:
        contract.optimizers.check_save(
            optimizer, INNER_OPTIMIZERS["momentum"], case.make(), tmp_path
        )


@layers
@pytest.mark.parametrize(
    "check",
    [
        contract.layers.check_config_round_trip,
        contract.layers.check_registered,
        contract.layers.check_shapes,
        contract.layers.check_noise,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_any_layer(case, check):
    check(case)


@some_layers
def test_layer_eager_graph_xla(case):
    contract.layers.check_eager_graph_xla(case)


@planar
@pytest.mark.parametrize(
    "check",
    [
        contract.layers.check_seed,
        contract.layers.check_one_example,
        contract.layers.check_gradients,
        contract.layers.check_zeros,
        contract.layers.check_losses_once,
        contract.layers.check_frozen,
        contract.layers.check_weights,
        contract.layers.check_copies,
        contract.layers.check_plain,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_layer(case, check):
    check(case)


@some_layers
@pytest.mark.parametrize(
    "check",
    [
        contract.layer_models.check_masks,
        contract.layer_models.check_nested,
        contract.layer_models.check_time_distributed,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_layer_in_a_model(case, check):
    check(case)


@few_layers
@pytest.mark.parametrize(
    "check",
    [
        contract.layer_models.check_trace,
        contract.layer_models.check_gradient_accumulation,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_layer_trained(case, check):
    check(case)


@some_layers
@pytest.mark.parametrize(
    "check",
    [
        contract.layer_models.check_save_and_load,
        contract.layer_models.check_weights_file,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_layer_on_disk(case, check, tmp_path):
    check(case, tmp_path)


@half
@some_layers
@pytest.mark.parametrize(
    "check",
    [contract.layers.check_dtype_policy, contract.layer_models.check_half_precision],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_layer_half_precision(case, check, policy):
    check(case, policy)


@few_layers
def test_layer_two_devices(case, two_cpus):
    contract.layer_models.check_two_devices(case, two_cpus)


@callbacks
@pytest.mark.parametrize(
    "check",
    [contract.callbacks.check_fit, contract.callbacks.check_again],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_callback(case, check):
    check(case, _penalty())


@policies
@pytest.mark.parametrize(
    "check",
    [
        contract.policies.check_numbers,
        contract.policies.check_nan,
        contract.policies.check_steps_per_execution,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_policy(case, check):
    check(case)


@xla
@pytest.mark.parametrize("case", some(POLICIES, "Hypergradient", "GradientRatio"))
def test_policy_in_fit(case, jit_compile):
    contract.policies.check_fit(case, jit_compile)


@pytest.mark.parametrize(  # one for each way to measure
    "case",
    [case for case in POLICIES if str(case) in ("GradientRatio", "GeneralizationGap")],
    ids=str,
)
def test_policy_two_devices(case, two_cpus):
    contract.policies.check_mirrored(case, two_cpus)


@policies
def test_policy_backup(case, tmp_path):
    contract.policies.check_backup(case, tmp_path)


@policies
def test_policy_resumed(case, tmp_path):
    contract.policies.check_resume(case, tmp_path / "model.keras")


@attacks
@norms
@pytest.mark.parametrize(
    "check",
    [contract.attacks.check_ball, contract.attacks.check_zero],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_attack_in_its_ball(case, check, norm):
    check(case, norm)


@attacks
@pytest.mark.parametrize(
    "check",
    [
        contract.attacks.check_leaves_the_model,
        contract.attacks.check_config_round_trip,
        contract.attacks.check_seed,
        contract.attacks.check_follows_changes,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_attack(case, check):
    check(case)


@metrics
@pytest.mark.parametrize(
    "check",
    [
        contract.metrics.check_config_round_trip,
        contract.metrics.check_batches,
        contract.metrics.check_stateless,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_metric(case, check):
    check(case)


@xla
@metrics
def test_metric_fit(case, jit_compile):
    contract.metrics.check_fit(case, jit_compile)


@half
@metrics
def test_metric_half_precision(case, policy):
    contract.metrics.check_half_precision(case, policy)


@metrics
def test_metric_on_disk(case, tmp_path):
    contract.metrics.check_save_and_load(case, tmp_path)


@metrics
def test_metric_two_devices(case, two_cpus):
    contract.metrics.check_two_devices(case, two_cpus)
