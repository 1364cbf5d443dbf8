"""The server of experiments.serve: an OpenAI-compatible endpoint for one model."""
