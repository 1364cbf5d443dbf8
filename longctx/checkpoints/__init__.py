"""Checkpoints that a kill at any moment does not lose, and checks that they belong to the run that reads them."""
