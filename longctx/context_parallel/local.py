"""One context shard: the kernel itself."""


def forward(q, k, v, tokens, spec, kernel, axis):
    return kernel.forward(q, k, v, (tokens, tokens), spec)


def backward(q, k, v, tokens, spec, kernel, axis, result, cotangent):
    return kernel.backward(q, k, v, (tokens, tokens), spec, result, cotangent)
