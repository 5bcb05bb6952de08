"""Converts published checkpoints to checkpoints of today's models, for ``mmnat convert``."""
