"""Sizes of published models, and a config that trains one of them on one long row at a time."""
from experiments.settings import stage
from longctx.errors import unknown_name

_LLAMA3_8B = dict(layers=32, d_model=4096, mlp_dim=14336, heads=32, kv_heads=8, head_dim=128, vocab_size=128256)

MODELS = {
    "llama3_1b": _LLAMA3_8B | dict(layers=16, d_model=2048, mlp_dim=8192, head_dim=64, tied_head=True),
    "llama3_8b": _LLAMA3_8B,
    "llama3_70b": _LLAMA3_8B | dict(layers=80, d_model=8192, mlp_dim=28672, heads=64),
    "llama_7b": _LLAMA3_8B | dict(mlp_dim=11008, kv_heads=32, vocab_size=32000),  # every query head has its own keys
    "qwen2.5_7b": dict(layers=28, d_model=3584, mlp_dim=18944, heads=28, kv_heads=4, head_dim=128, vocab_size=152064,
                       qkv_bias=True),
    "smollm2_135m": dict(layers=30, d_model=576, mlp_dim=1536, heads=9, kv_heads=3, head_dim=64, vocab_size=49152,
                         tied_head=True),
    "tinyllama_1b": dict(layers=22, d_model=2048, mlp_dim=5632, heads=32, kv_heads=4, head_dim=64, vocab_size=32000),
    # but for its norms of queries and keys, which have the mean taken out, over all heads at once
    "openlm_1b": dict(layers=24, d_model=2048, mlp_dim=5632, heads=16, kv_heads=16, head_dim=128, vocab_size=50432,
                      norm="layer", qk_norm="rms"),
}
# changes to any of them for a smoke run, in which two steps on simulated devices take seconds
SMOKE = dict(layers=2, d_model=64, mlp_dim=128, head_dim=8, vocab_size=512)


def fill(config, model: str, length: int, smoke: bool, context: int, context_outer: int = 1) -> None:
    """Sets up `config` to train a model of MODELS on one row of `length` tokens per step.

    Args:
      smoke: make the model and the row tiny, and run two steps on simulated devices.
      context, context_outer: the mesh axes over which the row is sharded.

    Raises UserError for an unknown model.
    """
    if model not in MODELS:
        raise unknown_name("model", model, MODELS)
    devices = context_outer * context
    length, steps = (128 * devices, 2) if smoke else (length, 1000)
    config.model.update(**MODELS[model] | (SMOKE if smoke else {}))
    config.batch_tokens = length
    config.stages = (stage(seq_len=length, steps=steps),)
    config.mesh.update(context_outer=context_outer, context=context)
    config.optim.learning_rate = 1e-3 if smoke else 1e-5
    config.checkpoint.every_steps = 50
    config.log.every_steps = 1
    if smoke:
        config.name += "-smoke"
        config.mesh.simulate = devices
        config.eval.tasks = ()


def fill_for_tuning(config, args, length: int) -> None:
    """Sets up `config` to tune a model of MODELS, all its weights or adapters of its matrices, as recipes do.

    At the end it is also asked the questions of the suite `quick`.

    args: of the recipe: model, lora (the rank of the adapters, 0 for all weights), fsdp (rows a step), context, steps,
    smoke. Raises UserError for an unknown model.
    """
    fill(config, args.model, length=length, smoke=args.smoke, context=args.context)
    config.model.remat = "attention"
    if args.lora:
        config.model.param_dtype = "bfloat16"  # of what is not trained; adapters are float32
        config.model.lora.update(rank=args.lora, alpha=2.0 * args.lora, targets=("attention.w*", "mlp.*"))
        config.optim.learning_rate = 1e-4
    if not args.smoke:
        config.mesh.fsdp = args.fsdp
        config.batch_tokens = length * args.fsdp
        config.stages[0].steps = args.steps
        config.eval.tasks = (*config.eval.tasks, "questions")  # the suite "quick": a pretrained model has answers
