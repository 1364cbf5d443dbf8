"""Questions about a generated text, whose answers are known: see question.py, and api.py for all by name."""
