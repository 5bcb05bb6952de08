"""Checkpoints: reading them without executing code, and comparing them with models."""
