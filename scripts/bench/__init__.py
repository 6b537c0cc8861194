"""The benchmarks behind scripts/benchmark.py, one module each; `measure(settings)` yields rows."""
