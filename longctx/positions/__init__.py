"""Position methods: one file per family, every name in api.py."""
