"""Position methods, one file per family: methods.py has those of a layer, query_scale.py the factors on its queries,
scalings.py RoPE's scalings, augment.py changes of positions in training, extension.py ways to read longer rows."""
