"""Whether models whose backbone was swapped run: a loss step and a prediction on random data."""
