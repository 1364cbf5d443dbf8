"""Meters of a training step: its traffic, counted in the compiled program beside a closed form, memory and balance."""
