"""Commands: train, evaluate, report and the benchmarks. Each runs as `python -m experiments.NAME`."""
