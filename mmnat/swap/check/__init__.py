"""Check that a model with a swapped backbone runs: a loss step and a prediction on random data."""
