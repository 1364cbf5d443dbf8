"""Documents in rows: packing.py says what a way to pack is, api.py has the names of data.packing."""
