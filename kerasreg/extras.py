"""Optional dependencies: imported when first needed, named when missing."""

import importlib
from types import ModuleType


def require(module: str, extra: str | None = None) -> ModuleType:
    """Imports an optional module, or says how to install it.

    Args:
        module: Name of the module to import, e.g. `"matplotlib.pyplot"`.
        extra: The extra of kerasreg that installs it, e.g. `"viz"`; `None` if it is
            installed by itself.

    Returns:
        The imported module.

    Raises:
        ImportError: The module is not installed. The message holds the command
            that installs it.

    Example:

    >>> require("json", "viz").loads("[1, 2]")
    [1, 2]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != missing:
            raise  # Installed, but broken: its own message says more than ours.
        package = missing if extra is None else f'"kerasreg[{extra}]"'
        raise ImportError(
            f"This needs `{missing}`, which is not installed. "
            f"Install it with: pip install {package}",
            name=missing,
        ) from error
