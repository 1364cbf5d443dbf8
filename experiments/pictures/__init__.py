"""Figures and pages of reports, benchmarks and notebooks."""
