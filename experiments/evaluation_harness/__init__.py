"""lm-evaluation-harness (lm_eval): our models as ones that it asks, our generated questions as tasks of its own."""
