"""The settings of a run, as frozen dataclasses with their defaults. Imports neither jax nor any other package.

A config file (configs/*.py) fills a ConfigDict made from these; experiments/settings/config.py turns it back into them
at the boundary, and nothing below experiments/ ever sees a ConfigDict. A choice is a name that some dict holds (a
strategy, a layout, a schedule); each room checks its own before anything starts: see experiments/settings/checks.py.
"""
import dataclasses
import math
from typing import Any

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
    """Settings of one kind of layer. A field left at "", 0 or None takes the model's value."""
    position: str = ""
    mask: str = ""
    query_scale: str = ""
    feed_forward: str = ""
    mlp_dim: int = 0
    rope: RopeConfig | None = None      # given, it is whole, and stages do not change it


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters beside weights: base + alpha / rank * a b (LoRA, arXiv 2106.09685).

    With them a run trains a and b alone, float32 both, unless optim.trains names more.
    """
    rank: int = 0                       # 0: none
    alpha: float = 16.0
    targets: tuple[str, ...] = ("attention.w*",)    # patterns of weights in a layer, such as "mlp.*", or of whole
                                        #   paths, such as "blocks.0.attention.wq", of the first kind of layers, or
                                        #   "head" and "embedding.table" where these are apart
    adapter: str = ""                   # a folder in peft's format that the adapters start from


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder, by default Llama's. D is d_model, F mlp_dim, N heads, K kv_heads, H head_dim."""
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
    lora: LoraConfig = LoraConfig()

    @property
    def kinds(self) -> tuple[LayerConfig, ...]:
        """The pattern with the model's values in the fields that it leaves open, except rope: a stage may change it."""
        def filled(kind: LayerConfig) -> dict[str, Any]:
            return {name: getattr(kind, name) or getattr(self, name)
                    for name in ("position", "mask", "query_scale", "feed_forward", "mlp_dim")}

        return tuple(dataclasses.replace(kind, **filled(kind)) for kind in self.pattern[:self.layers])


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the named mesh axes; their product is the number of devices used."""
    data: int = 1
    fsdp: int = 1
    context_outer: int = 1              # the slow level of a two-level split of the sequence: usp's, double_ring's ring
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
    """The implementation of attention and its sharding over the sequence; no field changes the result."""
    kernel: str = "auto"                # a name in pallas_kernels.attention.api.IMPLEMENTATIONS, or auto
    # commands may leave both to the cost model with "auto": see experiments/planner/auto.py
    strategy: str = "ring"              # a name in longctx.context_parallel.api.STRATEGIES; one shard is always local
    layout: str = "zigzag"              # for longctx.layouts.parse, e.g. "per_document(256)" for packed rows
    kv_grads_dtype: str = "float32"     # in which dK and dV travel; bfloat16 halves their bytes and rounds at each hop
    across_rows: bool = False           # in training, rows that a data-parallel rank takes at a time are one over its
                                        #   context shards: a long document's attention is on all of them


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Trade of memory for time in a training step; no field changes what is computed, except clip_mode="delayed"."""
    backward: str = "autodiff"          # a name in longctx.training.BACKWARDS
    # for "streamed":
    chunk_tokens: int = 0               # tokens of each row, over all context shards, that are in work at a time; with
                                        #   attention.layout="striped(chunk_tokens / shards)" neighbours in the row
    residual_every: int = 1             # every how many layers the input is kept; those between are computed again
    keep_attention: bool = False        # keep attention's results too: of all layers, or where residual_every > 1 of
                                        #   those that are computed again, so that the backward attends once less
    clip_mode: str = "exact"            # a name in longctx.streaming.step.CLIPS
    # for both; "autodiff" knows "params", "grads" and "moments" of the names of offload:
    offload: tuple[str, ...] = ()       # what is kept in host memory: names in longctx.memory.host.NAMES
    mlp_tiles: int = 1                  # tiles of a shard's tokens that go through the feed-forward one after another;
                                        #   with model.remat="tokens(...)", of the tokens that are computed again
    # for "autodiff", whose layers keep what model.remat says:
    loss_tiles: int = 0                 # tiles of a shard's tokens that go through the head one after another, tokens
                                        #   with a weight first, and tiles without any not at all; 0: all at once
    grad_accumulation: int = 1          # parts of a step's rows that go through the model one after another, whose
                                        #   gradients are added up; the update is that of all rows at once
    head_groups: int = 1                # groups of a shard's key heads, with their query heads, that attend in turn


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One of several sources of text that are mixed. What it leaves empty is as in `data`."""
    name: str = ""                      # letters, digits and _; the loss of its tokens is logged under it
    path: str = ""                      # as data.path
    share: float = 1.0                  # of the tokens that are fed, beside the shares of the others
    cap: float = 0.0                    # epochs at most over the run: what is above goes to the others; 0: no cap
    shortest: int = 0                   # tokens; documents of fewer are left out and counted
    longest: int = 0                    # tokens; documents of more are left out and counted; 0: none
    scores: str = ""                    # as data.scores, and data.keep
    keep: float = 1.0
    packing: str = ""
    records: str = ""
    text_field: str = ""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The source of the text, and its conversion to tokens."""
    path: str = "stdlib"                # file or folder, or gs://, s3://: text, code, JSON, Parquet, Arrow, FASTA, ids,
                                        #   ... (formats: longctx/data/formats/api.py); "stdlib": Python's own library;
                                        #   "pydoc": its reference, prose; must be set to train a model of init_from
    ignore: tuple[str, ...] = ()        # endings of files in that folder that are left out, e.g. (".json", ".parquet")
    bad: str = "stop"                   # a document that cannot be used is an error, before the first step; "skip": it
                                        #   is left out and counted
    max_bytes: int = 0                  # of text that is read, decompressed; 0 = what fits into the free memory
    tokenizer: str = "bytes"            # "bytes", or a local tokenizer.json
    bos: str = ""                       # the token that starts documents; "": as the files beside it say (data/
    eos: str = ""                       #   special_tokens.py), and the one that ends them
    token_dtype: str = ""               # type of the ids in bare .bin files and in "bytes" of Mosaic's, e.g. "uint16"
    records: str = "text"               # what makes a document of a line of .jsonl, a name in longctx.data.records.api
                                        #   FORMS: "messages", "completion", "preference" count answers alone
    text_field: str = "text"            # of records "text": the field that holds the document
    shortest: int = 0                   # tokens; training documents of fewer are left out and counted
    longest: int = 0                    # tokens; training documents of more are left out and counted; 0: none
    scores: str = ""                    # file of scores that experiments.select wrote: the training documents with the
    keep: float = 1.0                   #   best ones are kept, so many that they hold this share of the tokens
    mix: tuple[SourceConfig, ...] = ()  # several sources in place of path, see experiments.settings.source
    mix_temperature: float = 0.0        # of the mix: shares are also multiplied by tokens^(1/temperature) of each
                                        #   source; 0: they are not, 1: as the sources are, 2: by the root
    most_epochs: float = 0.0            # of a source of the mix over the run: more is an error; 0: any number
    holdout: float = 0.1                # share of documents kept for evaluation, chosen by a hash of their file name;
                                        #   1: all of them, for a model that is not trained on them
    packing: str = "best_fit"           # how documents lie in rows, a name in longctx.data.packing.api.PACKINGS;
                                        #   "in_context(FILE.npy)": by embeddings, a row for each training document
    too_long: str = "cut"               # documents longer than a row, a name in longctx.data.too_long.TOO_LONG: "cut"
                                        #   into pieces; without what does not count in the "middle", or at the "start",
                                        #   as far as needed; "skip": left out
    loss_weights: str = "tokens"        # what a document counts in the loss, of longctx.data.loss_weights.LOSS_WEIGHTS:
                                        #   "tokens", "sequences" (all the same), "documents(0.5)" in between
    generated: tuple[str, ...] = ()     # tasks that are made, each with its share of the training tokens, for longctx.
                                        #   data.generated.api.parse: ("passkey(0.5)", "copying(0.2)"); its
                                        #   GENERATED has the names
    generated_loss: str = "all"         # what counts of these in the loss, of LOSSES there: "all" tokens, or "answers"
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
    mix: tuple[str, ...] = ()           # shares of the sources of data.mix in this stage, ("code(0.3)", "web(0.7)"),
                                        #   others are left out; (): as data.mix has them
    window: str = "none"                # documents are cut shorter at first, as longctx.data.windows says:
                                        #   "linear(32, 0.6)", from 32 tokens on, whole after 60% of the steps
    order: str = "shuffled"             # of its rows, or a name in longctx.data.orders.ORDERS: "grow_p2(8)", steps of
                                        #   short documents likelier first, eight times over


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW with a learning-rate schedule, global-norm clipping and a guard against non-finite steps."""
    learning_rate: float = 1e-3         # at its peak; 2e-5 for a model of init_from, unless one is set
    schedule: str = "cosine"            # a name in longctx.optim.SCHEDULES
    warmup_steps: int = 20
    final_fraction: float = 0.1         # learning rate at the end / peak
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0              # 0 = no clipping
    max_bad_steps: int = 5              # stop after this many non-finite steps in a row
    trains: tuple[str, ...] = ()        # patterns of parameters that are trained, the others stay as they are: names in
                                        #   a layer ("mlp.*") or whole paths ("blocks.*", "head"); empty: all, or with
                                        #   model.lora the adapters, which always are
    ema: float = 0.0                    # of an average of what is trained, average = ema average + (1 - ema) new;
                                        #   evaluations and exports take it; 0: none


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Times at which the state is saved, and how long checkpoints stay.

    The state is saved after step 1, so that a failure shows at once; as the fields say; at the end of a stage; and when
    the run is asked to stop. After a skipped step, a save waits for the next good one.
    """
    every_steps: int = 100
    every_minutes: float = 10.0         # and once the last one is so old, looked at when a step is logged; 0 = never
    keep: int = 2                       # the newest; while steps are skipped none is deleted
    keep_every: int = 0                 # every how many-th saved step is kept for good beside them; 0 = none
    start_over: bool = False            # start from step 0 where steps are logged but no checkpoint is there


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What a run logs to metrics.jsonl, and where else."""
    every_steps: int = 10
    trackers: tuple[str, ...] = ("tensorboard",)    # names in experiments.run.trackers.TRACKERS: "wandb", "mlflow"


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What is measured of a model: see longctx/evals."""
    tasks: tuple[str, ...] = ("by_position", "context_gain", "passkey")   # names in longctx.evals.api.EVALS
    lengths: tuple[int, ...] = ()       # context lengths; empty = the curriculum's, and twice the longest
    documents: int = 8                  # held-out documents per length
    depths: int = 5                     # passkey: needle depths, evenly spaced
    samples: int = 4                    # passkey: prompts per length and depth; questions, sets, attribution: texts
                                        #   per task and length
    questions: tuple[str, ...] = ("quick",)   # suites and tasks in longctx/evals/questions/api.py
    ask: str = "forced"                 # how questions and sets are asked, a name of WAYS in longctx/evals/asking.py
    shots: int = 0                      # examples before each question: longctx/evals/questions/examples.py
    essays: str = ""                    # folder of texts (.txt, or .json with a "text") in which RULER's own prompts
                                        #   hide their needles; "" = generated prose
    data: str = ""                      # sets: the folder of a published set, see longctx/evals/sets/api.py
    too_long: str = "refuse"            # sets: of texts longer than a length, "refuse" it with what fits, cut their
                                        #   "middle" out, or "skip" them
    # sliding_window:
    windows: str = "sliding"            # a name of WINDOWS in longctx/evals/tasks/sliding_window.py
    stride: int = 0                     # tokens from the start of a window to the next; 0 = half of the window
    document_tokens: int = 0            # of each document that are read, from its start; 0 = twice the longest length,
                                        #   at least 8192
    # longppl:
    evaluator: str = ""                 # finds the key tokens: a Hugging Face folder, a .gguf file or the id of a model
                                        #   in the hub's cache; "": the model itself, which is circular
    key_context: int = 4096             # tokens of the short context
    key_stride: int = 1024              # tokens that share one
    # attribution:
    segments: int = 16                  # of a context, at most
    contributions: tuple[str, ...] = ("leave_one_out",)     # names of CONTRIBUTIONS in longctx/evals/attribution.py
    every_steps: int = 0                # in training: every how many steps, and at the end of a stage, the loss of the
                                        #   same held-out text is logged, of `documents` documents, of each a cut as
                                        #   long as the longest stage, read at the length of the stage; 0 = never


@dataclasses.dataclass(frozen=True)
class RecallConfig:
    """Associative recall, see longctx/data/generated/recall.py: needles in a row, and sizes of the vocabulary."""
    needles: int = 8
    key_tokens: int = 64
    value_tokens: int = 32
    filler_tokens: int = 32


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""
    name: str = "run"
    seed: int = 0
    # a Hugging Face folder, a .gguf file or the id of a model in the hub's cache (longctx/hf/sources.py), which gives
    # the model and its initial weights. What the config file or the command line sets explicitly, even to its default,
    # takes effect or is refused by name:
    #   model.mask, position, query_scale (in layers that leave them open), soft caps and rope take effect;
    #   model.dtype, param_dtype, remat are the run's in any case;
    #   a rope that sets scaling is new, except theta, rotary_fraction and original_length, which are the folder's;
    #   every other field of model is what the weights were made with: another value is refused.
    # data.tokenizer is the folder's unless it is set. The run keeps the folder's small files in WORKDIR/init_from.
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
