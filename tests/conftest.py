"""Settings that hold for every test: two logical CPUs, fixed seeds, float32."""

import gc
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest
import tensorflow as tf

from tests.exhaustive import exhaustive

pytest.register_assert_rewrite("tests.contract")

# `MirroredStrategy` needs two devices, and they must exist before TensorFlow starts.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

gc.freeze()  # what was imported stays: not to be looked through again


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(config, items):
    """Mark the cases that `tests/exhaustive.txt` lists."""
    lines = pathlib.Path(__file__).with_name("exhaustive.txt").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    found = {item.nodeid: item for item in items}
    for name in listed & found.keys():
        found[name].add_marker(exhaustive)
    files = {name.partition("::")[0] for name in found}
    gone = [n for n in listed - found.keys() if n.partition("::")[0] in files]
    if gone and not any("::" in str(argument) for argument in config.args):
        raise pytest.UsageError(f"tests/exhaustive.txt lists no such tests: {gone}")


@pytest.fixture(autouse=True)
def _same_start():
    """Each test starts from the same seed and leaves the dtype policy alone."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.enable_traceback_filtering()


@pytest.fixture
def two_cpus():
    """A `MirroredStrategy` on two logical CPU devices."""
    # Collective operations of the many strategies in one process can mix up.
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
