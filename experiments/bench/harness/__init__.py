"""Code that benchmarks share: processes for their sides, command-line options, cases, records of results."""
