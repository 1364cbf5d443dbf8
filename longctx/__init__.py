"""Train and study transformers at very long context: `import longctx as lc`.

Ten lines of exact attention over a sequence that is cut across eight devices (or CPU devices that jax simulates):

    import longctx as lc
    lc.simulate(8)                                              # without an accelerator: eight CPU devices
    import jax, jax.numpy as jnp

    q = jax.random.normal(jax.random.key(0), (1, 1000, 8, 64), jnp.bfloat16)            # B T N H
    k, v = jax.random.normal(jax.random.key(1), (2, 1, 1000, 2, 64), jnp.bfloat16)      # B S K H
    mask = lc.Causal() & (lc.Window(256) | lc.Sinks(4))
    with jax.set_mesh(lc.mesh(context=8)):
        out = lc.attention(q, k, v, mask=mask, strategy="ring")                         # B T N H

What there is, by what one wants to do; `help(lc.NAME)` tells the shapes, units and errors of each:

    attention    attention, attend       a sequence in natural order, by keywords; a layer's call of it, on Inputs
                 Pair, merge             a result (out, lse); two of them over disjoint keys made one
                 Inputs, AttentionSpec   the arrays of a call; what a kernel is told beside them
                 TokenInfo               positions and segments, all that a mask may know of tokens
    masks        Causal, Window, Sinks, Beyond, Chunked, PrefixLM, Segments, Full; `&` and `|` combine them
                 parse_mask              the same from text: "causal & (window(1024) | sinks(4))"
    devices      mesh, all_context       a mesh with the named axes; one whose devices all cut the sequence
                 simulate, layouts       CPU devices in place of accelerators; which token sits on which shard
    model        Config, ModelConfig, AttentionConfig, MeshConfig, RopeConfig      settings, frozen and free of jax
                 graph, init             the static part of a model; its parameters, born in their shardings
                 logits, nll             B T V; the negative log-likelihood of each target, B T
    training     init_state, train_step  the state; one step of it, for a jit
                 compile_step            the compiled step of a run
                 Checkpointer            saved so that a kill at any moment loses nothing
    text         generate, stream        tokens for prompts, all at once or as they come
                 hf                      models of Hugging Face: hf.load, hf.save
    registries   STRATEGIES KERNELS MASKS LAYOUTS SCALINGS METHODS EXTENSIONS AUGMENTATIONS REMAT_POLICIES EVALS

A registry holds every choice of one kind by name: print(lc.STRATEGIES) lists them with what they are. `import longctx`
costs nothing: jax is imported with the first name that needs it. The rooms behind these names are packages of their
own (lc.positions, lc.streaming, lc.context_parallel, ...); the commands are in `experiments`, `python -m experiments`.
"""

from typing import Any

from pallas_kernels import lazy

# name -> "module:attribute"
NAMES = {
    # attention
    "attention": "longctx.context_parallel.api:attention",
    "attend": "longctx.context_parallel.api:attend",
    "merge": "pallas_kernels.attention.pair:merge",
    "Pair": "pallas_kernels.attention.pair:Pair",
    "Inputs": "pallas_kernels.attention.pair:Inputs",
    "AttentionSpec": "pallas_kernels.attention.spec:AttentionSpec",
    "TokenInfo": "pallas_kernels.masks:TokenInfo",
    # masks
    "Causal": "pallas_kernels.masks:Causal",
    "Window": "pallas_kernels.masks:Window",
    "Sinks": "pallas_kernels.masks:Sinks",
    "Beyond": "pallas_kernels.masks:Beyond",
    "Chunked": "pallas_kernels.masks:Chunked",
    "PrefixLM": "pallas_kernels.masks:PrefixLM",
    "Segments": "pallas_kernels.masks:Segments",
    "Full": "pallas_kernels.masks:Full",
    "parse_mask": "pallas_kernels.masks:parse",
    # devices
    "mesh": "longctx.devices:mesh",
    "all_context": "longctx.meshes:all_context",
    "simulate": "longctx.devices:simulate",
    "layouts": "longctx.layouts",
    # model
    "Config": "longctx.config:Config",
    "ModelConfig": "longctx.config:ModelConfig",
    "AttentionConfig": "longctx.config:AttentionConfig",
    "MeshConfig": "longctx.config:MeshConfig",
    "RopeConfig": "longctx.config:RopeConfig",
    "graph": "longctx.model.functional:graph",
    "init": "longctx.model.functional:init",
    "logits": "longctx.model.functional:logits",
    "nll": "longctx.model.functional:nll",
    # training
    "init_state": "longctx.training:init_state",
    "compile_step": "longctx.training:compile_step",
    "train_step": "longctx.training:train_step",
    "Checkpointer": "longctx.checkpoints.checkpointer:Checkpointer",
    # text
    "generate": "longctx.generation.api:generate",
    "stream": "longctx.generation.api:stream",
    "hf": "longctx.hf",
}
# of these the face gives a Catalogue, a read-only view that prints well
REGISTRIES = {
    "STRATEGIES": "longctx.context_parallel.api:STRATEGIES",
    "KERNELS": "pallas_kernels.attention.api:IMPLEMENTATIONS",
    "MASKS": "pallas_kernels.masks:NAMES",
    "LAYOUTS": "longctx.layouts.api:LAYOUTS",
    "SCALINGS": "longctx.positions.scalings:SCALINGS",
    "METHODS": "longctx.positions.methods:METHODS",
    "EXTENSIONS": "longctx.positions.extension:EXTENSIONS",
    "AUGMENTATIONS": "longctx.positions.augment:AUGMENTATIONS",
    "REMAT_POLICIES": "longctx.memory.remat:POLICIES",
    "EVALS": "longctx.evals.api:EVALS",
}
__all__ = [*NAMES, *REGISTRIES]


def __getattr__(name: str) -> Any:
    """The public name, imported now; a registry as a Catalogue; or a module of this package."""
    found = lazy.load(__name__, NAMES | REGISTRIES, name)
    if name not in REGISTRIES:
        return found
    from longctx.catalogue import Catalogue

    return Catalogue(name, found)


def __dir__() -> list[str]:
    return sorted(__all__)
