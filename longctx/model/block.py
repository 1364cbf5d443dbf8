"""The ways to arrange norms, attention and feed-forward in a layer. To add one: a class, a line in BLOCKS."""

import jax
from flax import nnx

from longctx.config import LayerConfig, MemoryConfig, ModelConfig
from longctx.model import norm
from longctx.model.attention import Attend, Attention
from longctx.model.mlp import MLP, Gated
from longctx.model.moe import GptOss, Llama4

FEED_FORWARDS = {"gated": Gated, "plain": MLP, "gpt_oss": GptOss, "llama4": Llama4}


class Sequential(nnx.Module):
    """Attention, then feed-forward: x + attention(norm(x)), then x + mlp(norm(x)), as Llama and most others.

    Every block: (BTD, what `attend` keeps) of x BTD; see attention.Attend.
    """

    def __init__(self, key, config: ModelConfig, kind: LayerConfig, memory: MemoryConfig):
        attention_key, mlp_key = jax.random.split(key)
        self.attention_norm = norm.make(config)
        self.attention = Attention(attention_key, config, kind)
        self.mlp_norm = norm.make(config)
        self.mlp = FEED_FORWARDS[kind.feed_forward](mlp_key, config, kind.mlp_dim, memory)

    def __call__(self, x, attend: Attend):
        seen, kept = self.attention(self.attention_norm(x), attend)
        x = x + seen
        return x + self.mlp(self.mlp_norm(x)), kept


class Sandwich(Sequential):
    """Norms after attention and feed-forward too, before they are added: Gemma 2 and 3."""

    def __init__(self, key, config: ModelConfig, kind: LayerConfig, memory: MemoryConfig):
        super().__init__(key, config, kind, memory)
        self.attention_post_norm = norm.make(config)
        self.mlp_post_norm = norm.make(config)

    def __call__(self, x, attend: Attend):
        seen, kept = self.attention(self.attention_norm(x), attend)
        x = x + self.attention_post_norm(seen)
        return x + self.mlp_post_norm(self.mlp(self.mlp_norm(x))), kept


class Parallel(Sequential):
    """Attention beside feed-forward, each with its norm: x + attention(norm(x)) + mlp(another norm(x)), as GPT-NeoX."""

    def __call__(self, x, attend: Attend):
        seen, kept = self.attention(self.attention_norm(x), attend)
        return x + seen + self.mlp(self.mlp_norm(x)), kept


class ParallelShared(Sequential):
    """Attention beside feed-forward with one norm: x + attention(y) + mlp(y) with y = norm(x), as Cohere2."""

    def __init__(self, key, config: ModelConfig, kind: LayerConfig, memory: MemoryConfig):
        super().__init__(key, config, kind, memory)
        del self.mlp_norm

    def __call__(self, x, attend: Attend):
        x_normed = self.attention_norm(x)
        seen, kept = self.attention(x_normed, attend)
        return x + seen + self.mlp(x_normed), kept


BLOCKS = {"sequential": Sequential, "sandwich": Sandwich, "parallel": Parallel, "parallel_shared": ParallelShared}
