"""Counts parameters and multiply-accumulates of models, without computing or storing anything."""
