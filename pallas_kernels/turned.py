"""A matrix with its axes swapped in memory, for matmuls on CPUs."""

RUN = 128  # rows that are turned together


def turned(x):
    """x [M, K] with its axes swapped, [K, M], and not merely read in the other order where M is a multiple of RUN.

    XLA may take a plain transpose for another layout of the same array; the matmul that reads it is slow then, and in
    bfloat16 has no kernel of its own.
    """
    M, K = x.shape
    if M % RUN or M == RUN:
        return x.T
    return x.reshape(-1, RUN, K).transpose(2, 0, 1).reshape(K, M)
