"""Settings that hold for every test: two logical CPUs, fixed seeds, float32."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest
import tensorflow as tf

pytest.register_assert_rewrite("tests.contract")

# `MirroredStrategy` needs two devices, and they must exist before TensorFlow starts.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


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
