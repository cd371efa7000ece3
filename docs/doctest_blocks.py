"""Shows the examples in docstrings as code: a griffe extension for the manual."""

import re
from typing import Any

import griffe

# A prompt and every line up to the next blank one, as doctest reads them.
_DOCTEST = re.compile(r"^( *)>>> .*\n?(?:\1\S.*\n?)*", flags=re.MULTILINE)


def _fence(match: re.Match) -> str:
    indent = match.group(1)
    return f"{indent}```pycon\n{match.group(0).rstrip()}\n{indent}```\n"


class DoctestBlocks(griffe.Extension):
    """Puts a fence around each doctest that stands outside an indented section."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites the docstring of one object, before it is parsed."""
        if obj.docstring is not None and "```pycon" not in obj.docstring.value:
            obj.docstring.value = _DOCTEST.sub(_fence, obj.docstring.value)
