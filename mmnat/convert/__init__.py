"""Parts of ``mmnat convert``: published checkpoints into those of today's models."""
