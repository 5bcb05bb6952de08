"""Swaps measured: every shipped config swapped and run, and models trained with and without the swap."""
