"""Position methods: one file per family. methods.py has those of a layer, query_scale.py the factors on its queries,
api.py RoPE's scalings, augment.py what changes positions in training."""
