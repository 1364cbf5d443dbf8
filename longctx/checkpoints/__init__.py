"""Checkpoints: saved so that a kill at any moment loses nothing, told apart by the run that made them."""
