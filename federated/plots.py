"""Figures of federated runs (matplotlib, extra `viz`)."""


def history(history):
    """Placeholder."""
    raise NotImplementedError
