"""Evaluations: one file each, named in evals/api.py."""
