"""Benchmarks of cljax: ``python -m benchmarks --help``."""
