"""What `import kerasreg` adds to `import keras`, each in a fresh process."""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness

TIMED = """
import time
begin = time.perf_counter()
import {module}
print(time.perf_counter() - begin)
"""


def seconds(module):
    """Seconds that the import takes in a new interpreter."""
    command = [sys.executable, "-c", TIMED.format(module=module)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main():
    quick = harness.arguments().quick
    modules = ("keras", "kerasreg")
    for module in modules:
        seconds(module)
    taken = {module: [] for module in modules}
    for _ in range(2 if quick else 15):
        for module in modules:
            taken[module].append(seconds(module))
    harness.write(__file__, harness.summary(taken, "keras"), quick)


if __name__ == "__main__":
    main()
