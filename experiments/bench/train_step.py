"""Times our train step beside transformers' LlamaForCausalLM with PyTorch SDPA and AdamW, where installed.

    python -m experiments.bench.train_step --out train.json
    python -m experiments.bench.train_step --rounds 0 --agree 200        # bfloat16 against float32: the loss only

Both train the default model (3.1M parameters, float32) on the same random tokens, on the CPU with as many threads:
forward, backward, clipping of the global norm, AdamW. bfloat16 means float32 parameters and moments on both sides, with
bfloat16 matmuls and activations: ours by model.dtype, PyTorch's by torch.autocast. PyTorch runs eagerly, its attention
causal over whole rows; ours also compares segment ids, as in training on packed documents.
"""

import dataclasses
import itertools
import sys
import time

import numpy as np

from experiments.bench.harness import options, record, sides
from experiments.settings import console, places
from longctx.config import Config, ModelConfig, StageConfig
from longctx.data import curriculum

OURS, TORCH = "longctx", "PyTorch"
NEEDS = {OURS: (), TORCH: ("torch", "transformers")}
BASELINE = f"{TORCH} float32"
SMOOTHED = 20  # final steps whose mean is the final loss


def config_of(task: dict) -> Config:
    """The Config of a task: the default model and optimiser, one stage."""
    stage = StageConfig(seq_len=task["length"], steps=task.get("agree") or 100)
    model = dataclasses.replace(ModelConfig(), dtype=task["dtype"])
    return Config(batch_tokens=task["batch_tokens"], stages=(stage,), model=model)


def random_tokens(batch_size: int, length: int, count: int = 256) -> np.ndarray:
    """Random tokens below `count`, int32 [batch_size, length]; default bytes."""
    return np.random.default_rng(0).integers(0, count, (batch_size, length), np.int32)


def text_windows(batch_size: int, length: int):
    """Yields [B, T + 1] windows at random places of the standard library's training files, as bytes, without end."""
    from longctx.config import DataConfig
    from longctx.data import sources

    text = np.frombuffer(b"".join(document.text for document in sources.load(DataConfig()).train), np.uint8)
    rng = np.random.default_rng(0)
    while True:
        starts = rng.integers(0, len(text) - length, batch_size)
        yield text[starts[:, None] + np.arange(length + 1)].astype(np.int32)


def batch_of(tokens: np.ndarray, targets: np.ndarray) -> dict:
    """A batch whose rows are one document each, all token weights 1."""
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return {
        "tokens": tokens,
        "targets": targets,
        "positions": positions,
        "weights": np.ones(tokens.shape, np.float32),
        "segments": np.ones(tokens.shape, np.int32),
    }


def build_ours(task: dict):
    """(ready, handlers) for longctx.training.compile_step on a mesh of one device."""
    import jax

    from longctx import meshes, optim, training

    config = config_of(task)
    (stage,) = stages = curriculum.plan(config)
    mesh = meshes.make(config.mesh)
    state = training.init_state(config, mesh)
    start = time.perf_counter()
    compiled = training.compile_step(config, optim.learning_rate(config.optim, stages), stage, mesh)
    compile_s = time.perf_counter() - start

    def step(batch) -> float:
        nonlocal state
        state, metrics = compiled(state, batch)
        return float(metrics["loss"])

    def train() -> dict:
        rows = itertools.islice(text_windows(stage.batch_size, stage.seq_len), stage.steps)
        return {"losses": [step(meshes.put_batch(batch_of(x[:, :-1], x[:, 1:]), mesh)) for x in rows]}

    tokens = random_tokens(stage.batch_size, stage.seq_len)
    batch = meshes.put_batch(batch_of(tokens, np.roll(tokens, -1, 1)), mesh)
    if not task.get("agree"):
        step(batch)
    parameters = sum(x.size for x in jax.tree.leaves(state["params"]))
    ready = {"compile_s": compile_s, "parameters": parameters, "predicted_s": _predicted(config, stage, compiled)}
    return ready, {"step": lambda: sides.timed(lambda: step(batch)), "train": train}


def _predicted(config: Config, stage: curriculum.Stage, compiled) -> float:
    """Seconds of a step as `experiments.plan --target cpu` predicts them from the compiled program."""
    from experiments.hardware.cpu import Machine
    from experiments.planner import cpu_time
    from experiments.planner.work import work
    from longctx import meshes, training

    params = training.abstract_state(config, meshes.make(config.mesh))["params"]
    flops = work(config, params, stage.seq_len, stage.batch_size)
    return cpu_time.predict(config, Machine(), flops, stage.seq_len, compiled.as_text()).step


def build_torch(task: dict):
    """(ready, handlers) for an equal step in PyTorch."""
    import torch

    torch.set_num_threads(sides.threads())
    config = config_of(task)
    o, (stage,) = config.optim, curriculum.plan(config)
    model = torch_model(config.model, stage.seq_len)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=o.learning_rate, betas=(o.b1, o.b2), eps=o.eps, weight_decay=o.weight_decay
    )
    tokens = torch.from_numpy(random_tokens(stage.batch_size, stage.seq_len)).long()

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=task["dtype"] == "bfloat16"):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
        optimizer.step()
        return float(loss)

    step()
    parameters = sum(x.numel() for x in model.parameters())
    return {"compile_s": None, "parameters": parameters}, {"step": lambda: sides.timed(step)}


def torch_model(m: ModelConfig, length: int):
    """The transformers LlamaForCausalLM with the sizes of a ModelConfig, in float32."""
    import torch
    import transformers

    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=m.vocab_size,
            hidden_size=m.d_model,
            intermediate_size=m.mlp_dim,
            num_hidden_layers=m.layers,
            num_attention_heads=m.heads,
            num_key_value_heads=m.kv_heads,
            head_dim=m.head_dim,
            rms_norm_eps=m.norm_eps,
            max_position_embeddings=length,
            tie_word_embeddings=m.tied_head,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
            dtype=torch.float32,
        )
    )


def build(task: dict):
    """(ready, handlers) for one side, see sides.serve."""
    return {OURS: build_ours, TORCH: build_torch}[task["side"]](task)


def measure(length: int, dtypes: list[str], batch_tokens: int, rounds: int) -> list[dict]:
    """A record per side at one length; ratios are to PyTorch in float32 and in the side's own dtype."""
    tasks = {
        f"{side} {dtype}": {
            "side": side,
            "needs": NEEDS[side],
            "dtype": dtype,
            "length": length,
            "batch_tokens": batch_tokens,
        }
        for side in NEEDS
        for dtype in dict.fromkeys([*dtypes, *(["float32"] if side == TORCH else [])])
    }
    results = sides.compare("experiments.bench.train_step", tasks, ("step",), rounds)
    best = {side: min(result["seconds"]["step"], default=None) for side, result in results.items()}
    ratio = lambda over, under: over / under if over and under else None
    records = []
    for side, result in results.items():
        seconds, dtype = result["seconds"]["step"], tasks[side]["dtype"]
        peak = result.get("peak_mb") if seconds else None
        records.append(
            {
                "length": length,
                "side": side,
                "dtype": dtype,
                "seconds": seconds,
                "best_s": best[side],
                "tokens_per_s": ratio(batch_tokens, best[side]),
                "median_tokens_per_s": batch_tokens / float(np.median(seconds)) if seconds else None,
                "speed_over_torch_float32": ratio(best[BASELINE], best[side]),
                "speed_over_torch_same_dtype": ratio(best[f"{TORCH} {dtype}"], best[side]),
                "peak_mb": peak,
                "peak_over_torch_float32": ratio(peak, best[BASELINE] and results[BASELINE]["peak_mb"]),
                "compile_s": result.get("compile_s"),
                "predicted_s": result.get("predicted_s"),
                "predicted_over_best": ratio(result.get("predicted_s"), best[side]),
                "parameters": result.get("parameters"),
                "note": result["note"],
            }
        )
    return records


def agreement(steps: int, length: int, batch_tokens: int) -> dict:
    """The final losses of our step in both dtypes, from equal parameters on equal text, and their difference."""
    losses = {}
    for dtype in options.DTYPES:
        task = {"side": OURS, "dtype": dtype, "length": length, "batch_tokens": batch_tokens, "agree": steps}
        with sides.Worker("experiments.bench.train_step", task) as worker:
            losses[dtype] = worker.ask("train")["losses"]
    final = {dtype: float(np.mean(values[-SMOOTHED:])) for dtype, values in losses.items()}
    difference = abs(final["bfloat16"] - final["float32"]) / final["float32"]
    return {"steps": steps, "length": length, "final": final, "relative_difference": difference, "losses": losses}


def targets(records: list[dict], agreed: dict | None) -> list[dict]:
    """Targets of our step, in every dtype and at every length."""
    result = []
    for r in records:
        if r["side"].startswith(OURS):
            problem = f"{r['dtype']} at {r['length']}:"
            result += [
                record.target(f"{problem} speed over {BASELINE}", r["speed_over_torch_float32"], at_least=1.0),
                record.target(f"{problem} peak memory over {BASELINE}", r["peak_over_torch_float32"], at_most=1.5),
                record.target(f"{problem} compile seconds", r["compile_s"], at_most=10),
                record.target(f"{problem} predicted over measured seconds", r["predicted_over_best"], at_least=0.8),
                record.target(f"{problem} predicted over measured seconds", r["predicted_over_best"], at_most=1.2),
            ]
    if agreed:
        what = f"bfloat16 against float32, {agreed['steps']} steps at {agreed['length']}: relative difference in loss"
        result.append(record.target(what, agreed["relative_difference"], at_most=0.01))
    return result


def show(records: list[dict]) -> str:
    """The table of the records. said: predicted over measured seconds."""
    number = console.number
    header = ("length", "side", "tokens/s", "median", "x torch f32", "x torch same", "peak MB", "compile s", "said", "")
    return console.table(
        header,
        [
            (
                r["length"],
                r["side"],
                number(r["tokens_per_s"]),
                number(r["median_tokens_per_s"]),
                number(r["speed_over_torch_float32"]),
                number(r["speed_over_torch_same_dtype"]),
                number(r["peak_mb"]),
                number(r["compile_s"], 2),
                number(r["predicted_over_best"], 2),
                r["note"],
            )
            for r in records
        ],
    )


def arguments(argv):
    """The parsed options."""
    parser = options.parser(__doc__, lengths="512,2048,8192", dtype="bfloat16,float32", rounds=5, out=None, worker=None)
    parser.add_argument("--batch-tokens", type=int, default=8192, help="tokens per step (default: %(default)s)")
    parser.add_argument(
        "--agree",
        type=int,
        default=0,
        metavar="STEPS",
        help="also train this many steps on real text in both dtypes, at the first length",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    if args.worker:
        return sides.serve(build, args.worker)
    lengths, dtypes = console.whole_numbers("--lengths", args.lengths), options.dtypes(args.dtype)
    for length in lengths:
        curriculum.plan(config_of({"length": length, "dtype": dtypes[0], "batch_tokens": args.batch_tokens}))
    places.check_file("--out", args.out)
    environment, records, agreed = record.environment(), [], None
    for length in lengths if args.rounds else ():
        print(f"{length} tokens ...", file=sys.stderr, flush=True)
        records += measure(length, dtypes, args.batch_tokens, args.rounds)
    if args.agree:
        print(f"{args.agree} steps in float32 and bfloat16 ...", file=sys.stderr, flush=True)
        agreed = agreement(args.agree, lengths[0], args.batch_tokens)
    checked = targets(records, agreed)
    print("\n\n".join([*([show(records)] if records else []), *([record.target_table(checked)] if checked else [])]))
    record.write(
        args.out,
        {
            "benchmark": "train_step",
            "environment": environment,
            "batch_tokens": args.batch_tokens,
            "records": records,
            "agreement": agreed,
            "targets": checked,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
