"""The command `kerasreg`: the demo, a check of the installation, a federation."""

import importlib
import os
import sys

_COMMANDS = {
    "demo": ("kerasreg.demo", "compare penalties on real data; writes a report"),
    "doctor": ("kerasreg.doctor", "what is installed, and does a GPU work?"),
    "federated simulate": ("federated.__main__", "train across simulated clients"),
    "federated server": ("federated.deployment.server", "a task across real sites"),
    "federated client": ("federated.deployment.client", "take part with the data here"),
}


def main(arguments=None):
    """Run the command that the command line names.

    Args:
        arguments: List of strings, of the command line by default.

    Returns:
        The exit status.

    Example:

    >>> from kerasreg.cli import main
    >>> main(["--version"])
    kerasreg 0.1.0
    0
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments in (["-V"], ["--version"]):
        from kerasreg import __version__

        print(f"kerasreg {__version__}")
        return 0
    for name, (module, _) in _COMMANDS.items():
        words = name.split()
        if arguments[: len(words)] == words:
            return _run(name, module, arguments[len(words) :])
    asked = arguments in (["-h"], ["--help"])
    print(_usage(arguments), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _run(name, module, arguments):
    if ".deployment." in module:
        # A process of its own kind, which only starts others, without TensorFlow.
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    sys.path.insert(0, os.getcwd())  # as `python -m` does: tasks lie there
    try:
        command = importlib.import_module(module)
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        print(error, file=sys.stderr)
        return 1
    return command.main(arguments, prog=f"kerasreg {name}") or 0


def _usage(arguments):
    lines = ["usage: kerasreg COMMAND ...   (kerasreg COMMAND --help says more)", ""]
    lines += [f"  {name:20} {text}" for name, (_, text) in _COMMANDS.items()]
    known = arguments[:1] in (["-h"], ["--help"], ["federated"])
    if arguments and not known:
        lines.append(f"\nThere is no command {' '.join(arguments[:2])!r}.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
