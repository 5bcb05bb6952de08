"""Parts of ``tools/convert_checkpoint.py``: published checkpoints into those of today's models."""
