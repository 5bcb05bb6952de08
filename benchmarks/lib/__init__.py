"""Parts shared by the benchmarks in ``tools``."""
