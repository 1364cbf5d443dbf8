"""Benchmarks. A file in this folder runs as `python -m experiments.bench.NAME`, or as `longctx bench.NAME`."""
