"""What `import kerasreg` adds to `import keras`, in fresh processes."""

import subprocess
import sys

from benchmarks import harness

ROUNDS = 9


def importing(module):
    """A callable that imports a module in a new process."""
    return lambda: subprocess.run(
        [sys.executable, "-c", f"import {module}"], check=True, capture_output=True
    )


if __name__ == "__main__":
    names = ("keras", "kerasreg")
    seconds = harness.side_by_side({n: importing(n) for n in names}, ROUNDS)
    harness.write(
        __file__,
        {
            "seconds, import keras": min(seconds["keras"]),
            "import kerasreg / import keras": harness.ratios(seconds, "keras")[
                "kerasreg"
            ],
        },
    )
