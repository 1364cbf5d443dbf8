"""Commands: train, evaluate, extend, generate, export, report, plan and the benchmarks.

Each runs as `python -m experiments.NAME`.
"""
