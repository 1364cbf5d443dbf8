"""What a training step needs of hardware that is not here: memory by kind, FLOPs, bytes on links, and a time.

The step is compiled by the compiler of that hardware, and read: what is printed as compiled is the compiler's own
count. A time is predicted from it by hardware.CHIPS, and is no measurement.
"""
