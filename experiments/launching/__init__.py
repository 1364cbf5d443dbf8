"""Launchers: each turns one training command into what a kind of cluster takes, and starts it there."""
