"""Measurements of a model on held-out documents and generated tasks; evals/api.py lists them."""
