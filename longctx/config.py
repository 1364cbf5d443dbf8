"""Every setting of a run, as frozen dataclasses with their defaults. Imports neither jax nor any other package.

A config file (configs/*.py) fills a ConfigDict made from these; experiments/settings/config.py turns it back into them
at the boundary, and nothing below experiments/ ever sees a ConfigDict. A choice is a name that some dict knows (a
strategy, a layout, a schedule); experiments/settings/checks.py checks each name before anything starts.
"""
import dataclasses
import math

DTYPES = ("bfloat16", "float32")        # of activations, of parameters, and of gradients that travel


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding. Lengths are in tokens; `factor` is target length / original length.

    The numbers of the published scalings are fields here, so that a command line or a stage sets one of them alone;
    a scaling takes those that its class in longctx/positions/scalings.py has fields for. A scaling with a number that
    has no field here takes it in parentheses, such as scaling="toy(3)".
    """
    theta: float = 10_000.0
    scaling: str = "none"               # for longctx.positions.scalings.of: a name in SCALINGS there
    pairing: str = "half"               # "half" pairs dimensions i, i + d/2 (Llama); "interleaved" 2i, 2i + 1 (GPT-J)
    rotary_fraction: float = 1.0        # of each head, from its first dimension on: the rest passes; 0 is NoPE
    factor: float = 1.0
    original_length: int = 0            # the length that the unscaled model was trained at
    beta_fast: float = 32.0             # YaRN: dimensions turning more often than this inside original_length are kept
    beta_slow: float = 1.0              # YaRN: dimensions turning less often than this are interpolated
    truncate: bool = True               # YaRN: to whole dimensions between the two
    mscale: float = 1.0                 # YaRN: cos and sin times (0.1 mscale ln(factor) + 1) / (the same of
    mscale_all_dim: float = 0.0         #       mscale_all_dim)
    attention_factor: float = 0.0       # YaRN, LongRoPE: multiplies cos and sin; 0 = as published
    low_freq_factor: float = 1.0        # llama3
    high_freq_factor: float = 4.0       # llama3
    short_factors: tuple[float, ...] = ()   # LongRoPE: what divides each frequency in rows up to original_length
    long_factors: tuple[float, ...] = ()    #           and in longer ones
    power: float = 0.0                  # Giraffe's power basis
    clex_width: int = 1                 # CLEX: hidden size of its network / dimensions that rotate


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """One kind of layer. What is left open, "", 0 or None, is the model's."""
    position: str = ""
    mask: str = ""
    query_scale: str = ""
    feed_forward: str = ""
    mlp_dim: int = 0
    rope: RopeConfig | None = None      # given, it is whole, and stages do not change it


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder, Llama's unless told otherwise. D is d_model, F mlp_dim, N heads, K kv_heads, H head_dim."""
    vocab_size: int = 264               # at least the tokenizer's; a multiple of mesh.tensor
    layers: int = 4
    d_model: int = 256
    mlp_dim: int = 704
    heads: int = 4
    kv_heads: int = 2                  # GQA: divides heads; 1 is MQA
    head_dim: int = 64
    block: str = "sequential"           # a name in longctx.model.block.BLOCKS
    norm: str = "rms"                   # a name in longctx.model.norm.NORMS
    norm_eps: float = 1e-6
    norm_offset: float = 0.0            # norms multiply by offset + weight; 1 for Gemma
    qk_norm: str = "none"               # a name in longctx.model.attention.QK_NORMS
    qkv_bias: bool = False
    out_bias: bool = False              # of attention's last projection
    attention_scale: float = 0.0        # multiplies q.k; 0 = head_dim^-0.5
    attention_soft_cap: float = 0.0     # scores become cap * tanh(scores / cap); 0 = none
    learned_sinks: bool = False         # for each query head the logit of a key without value (gpt-oss)
    feed_forward: str = "gated"         # a name in longctx.model.block.FEED_FORWARDS
    activation: str = "silu"            # a name in longctx.model.mlp.ACTIVATIONS
    mlp_bias: bool = False
    experts: int = 0                    # of a mixture; how many each token goes to, and their F
    experts_per_token: int = 0
    expert_mlp_dim: int = 0
    tied_head: bool = False             # the output head is the transposed embedding
    embedding_std: float = 0.0          # of the embedding's weights at the start; 0 = d_model^-0.5
    embedding_scale: float = 0.0        # multiplies embeddings; 0 = what gives them unit variance at the start: a large
                                        #   embedding_std then keeps Adam from turning them over soon
    logit_scale: float = 1.0
    logit_soft_cap: float = 0.0
    mask: str = "causal"                # for pallas_kernels.masks.parse, e.g. "causal & (window(1024) | sinks(4))"
    position: str = "rope"              # for longctx.positions.methods.parse, e.g. "nope", "self_extend(8, 512)"
    query_scale: str = "none"           # for longctx.positions.query_scale.parse, e.g. "llama4(8192, 0.1)"
    pattern: tuple[LayerConfig, ...] = (LayerConfig(),)     # kinds of layers: layer i is pattern[i % len(pattern)]
    dtype: str = "bfloat16"             # matmul operands and activations; softmax, norms and loss are always f32
    param_dtype: str = "float32"
    remat: str = "attention"            # for longctx.memory.remat.parse, e.g. "layer", "tokens(0.25, 0.5)"
    rope: RopeConfig = RopeConfig()

    @property
    def kinds(self) -> tuple[LayerConfig, ...]:
        """The pattern, what it leaves open filled in; but for rope, which a stage may change."""
        filled = lambda kind: {name: getattr(kind, name) or getattr(self, name)
                               for name in ("position", "mask", "query_scale", "feed_forward", "mlp_dim")}
        return tuple(dataclasses.replace(kind, **filled(kind)) for kind in self.pattern[:self.layers])


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the named mesh axes; their product is the number of devices used."""
    data: int = 1
    fsdp: int = 1
    context_outer: int = 1              # the slow level of a two-level cut of the sequence: ring of usp and double_ring
    context: int = 1
    tensor: int = 1
    simulate: int = 0                   # run on this many simulated CPU devices; 0 = the real ones

    @property
    def axes(self) -> dict[str, int]:
        """Name and size of every axis, slowest first."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "simulate"}

    @property
    def devices(self) -> int:
        return math.prod(self.axes.values())

    @property
    def context_shards(self) -> int:
        return self.context_outer * self.context

    def __str__(self):
        return " x ".join(f"{axis} {size}" for axis, size in self.axes.items())


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """How attention is computed and cut; none of these changes its value."""
    kernel: str = "auto"                # a name in pallas_kernels.attention.api.IMPLEMENTATIONS, or auto
    # both may be "auto" for experiments.train, plan and comm: see experiments/planner/auto.py
    strategy: str = "ring"              # a name in longctx.context_parallel.api.STRATEGIES; one shard is always local
    layout: str = "zigzag"              # for longctx.layouts.parse, e.g. "per_document(256)" for packed rows
    kv_grads_dtype: str = "float32"     # in which dK and dV travel; bfloat16 halves their bytes and rounds at each hop


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """How a training step spends memory; none of these changes what it computes, but for clip_mode="delayed"."""
    backward: str = "autodiff"          # a name in longctx.train_step.BACKWARDS
    # for "streamed":
    chunk_tokens: int = 0               # tokens of each row, over all context shards, that are in work at a time; with
                                        #   attention.layout="striped(chunk_tokens / shards)" neighbours in the row
    residual_every: int = 1             # of so many layers the input of one is kept, those between are computed again
    keep_attention: bool = False        # and the results of attention: of all layers, or where residual_every > 1 of
                                        #   those that are computed again, so that the way back attends once less
    clip_mode: str = "exact"            # a name in longctx.streaming.step.CLIPS
    # for both; of the names of offload "autodiff" has "params", "grads" and "moments":
    offload: tuple[str, ...] = ()       # what is in the hosts' memory: names in longctx.memory.host.NAMES
    mlp_tiles: int = 1                  # parts of a shard's tokens that go through the feed-forward one after another;
                                        #   of model.remat="tokens(...)" those that are computed again
    # for "autodiff", of which model.remat says what a layer keeps, and where:
    loss_tiles: int = 0                 # parts of them, those that have a weight first, that go through the head one
                                        #   after another, and those without any not at all; 0: all tokens at once
    head_groups: int = 1                # parts of a shard's key heads, and their query heads, that attend one by one


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how it becomes tokens."""
    path: str = "stdlib"                # .txt .md .py .jsonl (also .gz) file or folder; "stdlib": Python's own library
    ignore: tuple[str, ...] = ()        # endings of files in that folder that are left out, e.g. (".json", ".parquet")
    bad: str = "stop"                   # a document that cannot be used is an error, before the first step; "skip": it
                                        #   is left out and counted
    max_bytes: int = 0                  # of text that is read, decompressed; 0 = what fits into the free memory
    tokenizer: str = "bytes"            # "bytes", or a local tokenizer.json
    bos: str = ""                       # the token that starts documents; "": as the files beside it say (data/
    eos: str = ""                       #   special_tokens.py), and the one that ends them
    text_field: str = "text"            # .jsonl: the field that holds the document
    holdout: float = 0.1                # share of documents kept for evaluation, chosen by a hash of their file name
    passkey_share: float = 0.0          # share of the training tokens that are generated passkey tasks
    copy_share: float = 0.0             # share that are a few random digits repeated: practice in looking back
    prefetch: int = 8                   # batches read ahead


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One stage of the curriculum. Give steps or tokens, not both."""
    seq_len: int = 512
    steps: int = 0
    tokens: int = 0                     # rounded up to whole steps
    batch_tokens: int = 0               # 0 = the run's batch_tokens
    lr_scale: float = 1.0
    lr: str = "continue"                # a name in longctx.optim.LR_TREATMENTS
    rope: RopeConfig | None = None      # None = the model's
    augment: str = "none"               # a name in longctx.positions.augment.AUGMENTATIONS
    augment_length: int = 0             # what it trains for, in tokens


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW with a learning-rate schedule, global-norm clipping and a guard against non-finite steps."""
    learning_rate: float = 1e-3
    schedule: str = "cosine"            # a name in longctx.optim.SCHEDULES
    warmup_steps: int = 20
    final_fraction: float = 0.1         # learning rate at the end / peak
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0              # 0 = no clipping
    max_bad_steps: int = 5              # stop after this many non-finite steps in a row


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved: after step 1, so that it shows at once whether it can be; as said below; at the end of a
    stage; and when the run is asked to stop. After a step that was skipped it waits for the next good one."""
    every_steps: int = 100
    every_minutes: float = 10.0         # and once the last one is so old, looked at when a step is logged; 0 = never
    keep: int = 2                       # the newest; while steps are skipped none is deleted
    start_over: bool = False            # start from step 0 where steps are logged but no checkpoint is there


@dataclasses.dataclass(frozen=True)
class LogConfig:
    every_steps: int = 10
    tensorboard: bool = True


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What experiments.evaluate measures, also at the end of training."""
    tasks: tuple[str, ...] = ("by_position", "context_gain", "passkey")   # names in longctx.evals.api.EVALS
    lengths: tuple[int, ...] = ()       # context lengths; empty = the curriculum's, and twice the longest
    documents: int = 8                  # held-out documents per length
    depths: int = 5                     # passkey: needle depths, evenly spaced
    samples: int = 4                    # passkey: prompts per length and depth


@dataclasses.dataclass(frozen=True)
class RecallConfig:
    """The task of experiments.extend, see longctx/data/generated/recall.py; sizes of its vocabulary, and needles."""
    needles: int = 8
    keys: int = 64
    values: int = 32
    fillers: int = 32


@dataclasses.dataclass(frozen=True)
class ExtendConfig:
    """What experiments.extend compares. The trained length is that of the last stage."""
    methods: tuple[str, ...] = ("none", "linear", "ntk", "dynamic", "yarn", "self_extend", "rerope", "leaky_rerope",
                                "dca", "lm_infinite", "streaming")   # names in longctx.positions.extension.EXTENSIONS
    lengths: tuple[int, ...] = ()       # tokens; empty = 1, 2, 4, 8 and 16 times the trained one
    rows: int = 32                      # per method and length; each asks for every needle
    depths: int = 8                     # how many parts of the haystack are told apart
    tunings: tuple[str, ...] = ()       # names in longctx.positions.extension.TUNINGS
    tune_length: int = 0                # tokens that these are for; 0 = 8 times the trained length
    tune_steps: int = 100
    tune_learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""
    name: str = "run"
    seed: int = 0
    # init_from: a folder of Hugging Face, whose model it is and from whose weights the run starts. What is said in the
    # config file or on the command line, defaults too, takes effect or is refused by name:
    #   model.mask, position, query_scale (in layers that leave them open), soft caps and rope take effect;
    #   model.dtype, param_dtype, remat are the run's in any case;
    #   a rope that says scaling is new, but for theta, rotary_fraction and original_length, which are the folder's;
    #   all else of model is what the weights were made with: another value is refused.
    # data.tokenizer is the folder's unless it is said. The run keeps the folder's small files in WORKDIR/init_from.
    init_from: str = ""
    batch_tokens: int = 8192            # tokens per step, held constant over the stages unless a stage says otherwise
    stages: tuple[StageConfig, ...] = (StageConfig(steps=100),)
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    attention: AttentionConfig = AttentionConfig()
    memory: MemoryConfig = MemoryConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    eval: EvalConfig = EvalConfig()
    recall: RecallConfig = RecallConfig()
    extend: ExtendConfig = ExtendConfig()
