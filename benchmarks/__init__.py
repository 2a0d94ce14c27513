"""The standing benchmarks of conversion, run by ``pytest benchmarks/``."""
