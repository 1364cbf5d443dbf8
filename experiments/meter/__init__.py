"""What a training step moves between devices: counted in its compiled program, beside its closed form."""
