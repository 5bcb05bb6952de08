"""Starts a training or a test: config, precision, processes, memory, runner."""
