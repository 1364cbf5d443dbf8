"""Accelerators that need not be there: what is known of them, compiling for them, reading what comes out."""
