"""Position methods: one file per family. RoPE's names are in api.py, those of augmentations in augment.py."""
