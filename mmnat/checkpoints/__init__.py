"""Checkpoints: how to read them without executing code, and how they differ from models."""
