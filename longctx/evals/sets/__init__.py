"""Sets of texts and questions that people download, read from a folder: see published.py, and api.py for all."""
