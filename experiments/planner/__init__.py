"""Plans: memory, FLOPs, link traffic and time of a training step on hardware that this machine does not have.

The step is compiled by that hardware's compiler, whose own counts are printed as "compiled". Times are predicted from
the counts by the rates in hardware.targets.CHIPS; they are no measurements.
"""
