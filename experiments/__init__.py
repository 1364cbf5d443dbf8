"""Commands: train, evaluate, extend, generate, export, report, compile_memory and the benchmarks.

Each runs as `python -m experiments.NAME`.
"""
