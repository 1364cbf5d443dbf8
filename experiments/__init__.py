"""Commands: train, evaluate, generate, report and the benchmarks. Each runs as `python -m experiments.NAME`."""
