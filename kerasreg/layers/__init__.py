"""Layers with noise on weights and units."""

__all__: list[str] = []
