"""Benchmarks: each file here runs as `python -m experiments.bench.NAME`, or `longctx bench.NAME`."""
