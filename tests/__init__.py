"""The test-suite; it mirrors the source path for path."""
