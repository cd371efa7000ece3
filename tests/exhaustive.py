"""Which cases of a check run in `make test`, and which in `make test-all` alone."""

import pytest

exhaustive = pytest.mark.exhaustive


def some(cases, *names):
    """Cases as parameters; all but those named run in `make test-all` alone.

    For a check that goes through the same code for each case.

    Args:
        cases: List of values, or dict from name to value.
        names: Names (`str`) of the cases that always run.
    """
    named = cases if isinstance(cases, dict) else {str(case): case for case in cases}
    unknown = set(names) - set(named)
    assert not unknown, f"no cases {unknown}"
    return [
        pytest.param(case, id=name, marks=() if name in names else exhaustive)
        for name, case in named.items()
    ]
