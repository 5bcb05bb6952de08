"""Measurements of the swap: all configs of a framework swapped and run, and pairs of models trained."""
