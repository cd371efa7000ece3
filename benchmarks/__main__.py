"""Run every benchmark, each in a process of its own: `python -m benchmarks`."""

import pathlib
import subprocess
import sys

failed = []
for script in sorted(pathlib.Path(__file__).parent.glob("*/run.py")):
    print(f"== {script.parent.name}", flush=True)
    if subprocess.run([sys.executable, str(script), *sys.argv[1:]]).returncode:
        failed.append(script.parent.name)
if failed:
    sys.exit(f"These failed: {failed}")
