"""The checks before a training or a test: types, data, classes and weights."""
