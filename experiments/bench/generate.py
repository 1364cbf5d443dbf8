"""Times our reading of prompts and our decoding beside transformers' on PyTorch, with the same weights, on the CPU.

    python -m experiments.bench.generate --out generate.json
    python -m experiments.bench.generate --model FOLDER --lengths 512,2048 --rows 1,8 --dtype float32,bfloat16

The model is SmolLM2-135M's shape with random weights, or that of --model (a Hugging Face folder, a .gguf file, an id in
the hub's cache). `read` is a prompt of one row up to the next token's logits, from an empty cache; `decode` is greedy
tokens of every row, 16 a burst, behind a prompt of that length. PyTorch runs eagerly, with SDPA and a DynamicCache.
"""

import dataclasses
import pathlib
import sys
import tempfile
import time

import numpy as np

from experiments.bench.harness import options, record, sides
from experiments.bench.train_step import NEEDS, OURS, TORCH, random_tokens
from experiments.settings import console, places
from experiments.settings.models import MODELS
from longctx.config import MeshConfig, ModelConfig

READ, DECODE = "read", "decode"
NEW = 16  # tokens of a decoding burst
SMOLLM2 = ModelConfig(**MODELS["smollm2_135m"], dtype="float32")
AIMS = {READ: 1.0, DECODE: 1.5}  # speed over transformers in the same dtype


class Ours:
    """longctx.generation on a mesh of one device: the work of one side. Call under `jax.set_mesh`."""

    def __init__(self, model, task: dict):
        from longctx.model import functional

        self.model, self.chunk = model, task["chunk"]
        self.params = functional.forward_only(model.params)
        self.room = task["length"] + NEW * (task["rounds"] + 2)
        self.ids = random_tokens(task["rows"], task["length"], model.config.vocab_size)

    def read(self, rows: int):
        """(cache, last hidden states, next tokens) after that many prompts."""
        from longctx.generation import reading

        config, static = self.model.config, (self.model.graph, None, 0)
        cache = reading.empty(config, rows, self.room)
        cache, last = reading.read(static, self.params, config, cache, list(self.ids[:rows]), self.chunk)
        return cache, last, self.choose(last)

    def choose(self, last):
        """The likeliest next tokens."""
        import jax

        from longctx.generation import decode
        from longctx.generation.request import Sampling

        return decode.choose(self.model.graph, self.params, last, Sampling(), jax.random.key(0), 0)

    def begin(self) -> None:
        """Reads all prompts, for `decode` to go on from."""
        self.cache, self.last, _ = self.read(len(self.ids))
        self.position = self.ids.shape[1]

    def decode(self) -> None:
        """Takes NEW tokens of every row."""
        from longctx.generation import decode

        for _ in range(NEW):
            chosen, at = self.choose(self.last), np.full(len(self.ids), self.position, np.int32)
            self.cache, self.last = decode.read_one(self.model.graph, None, 0, self.params, self.cache, chosen, at)
            self.position += 1
            np.asarray(chosen)


def build_ours(task: dict):
    """(ready, handlers) of longctx.generation."""
    import jax

    from longctx import hf

    model = hf.load(task["folder"], dtype=task["dtype"])
    with jax.set_mesh(model.mesh):
        work = Ours(model, task)
    read = lambda: jax.block_until_ready(work.read(1))

    def within(run):
        with jax.set_mesh(work.model.mesh):
            return run()

    start = time.perf_counter()
    within(read)
    compile_s = time.perf_counter() - start
    within(work.begin), within(work.decode)
    timed = lambda run: lambda: within(lambda: sides.timed(run))
    return {"compile_s": compile_s}, {READ: timed(read), DECODE: timed(work.decode)}


def build_torch(task: dict):
    """(ready, handlers) of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(sides.threads())
    dtype = getattr(torch, task["dtype"])
    model = AutoModelForCausalLM.from_pretrained(task["folder"], dtype=dtype, attn_implementation="sdpa").eval()
    ids = torch.from_numpy(random_tokens(task["rows"], task["length"], model.config.vocab_size)).long()

    @torch.no_grad()
    def read(count: int):
        found = model(input_ids=ids[:count], use_cache=True, logits_to_keep=1)
        return found.past_key_values, found.logits[:, -1].argmax(-1)

    past, token = read(task["rows"])

    @torch.no_grad()
    def tokens():
        nonlocal past, token
        for _ in range(NEW):
            found = model(input_ids=token[:, None], past_key_values=past, use_cache=True)
            past, token = found.past_key_values, found.logits[:, -1].argmax(-1)

    read(1), tokens()
    return {"compile_s": None}, {READ: lambda: sides.timed(lambda: read(1)), DECODE: lambda: sides.timed(tokens)}


def build(task: dict):
    """(ready, handlers) for one side, see sides.serve."""
    return {OURS: build_ours, TORCH: build_torch}[task["side"]](task)


def write_model(source: str, folder: pathlib.Path) -> None:
    """A folder with the weights of the model that `source` names, or with random ones of SMOLLM2's shape."""
    import jax

    from longctx import hf, meshes
    from longctx.config import AttentionConfig
    from longctx.model import functional

    if source:
        hf.save(hf.load(source), folder)
        return
    mesh = meshes.make(MeshConfig())
    with jax.set_mesh(mesh):
        params = jax.jit(lambda: functional.init(SMOLLM2, AttentionConfig(), jax.random.key(0)))()
    hf.save(hf.Model(SMOLLM2, params, mesh), folder)


def measure(folder: str, length: int, rows: int, args) -> list[dict]:
    """A record for each side, dtype and handler at one length and count of rows; ratios are within a dtype."""
    tasks = {
        f"{side} {dtype}": {
            "side": side,
            "needs": NEEDS[side],
            "folder": folder,
            "dtype": dtype,
            "length": length,
            "rows": rows,
            "rounds": args.rounds,
            "chunk": args.chunk,
        }
        for dtype in options.dtypes(args.dtype)
        for side in NEEDS
    }
    handlers = (READ, DECODE) if rows == 1 else (DECODE,)
    results = sides.compare("experiments.bench.generate", tasks, handlers, args.rounds)
    records = []
    for name, handler in ((name, handler) for handler in handlers for name in tasks):
        task, result = tasks[name], results[name]
        each = rows * NEW if handler == DECODE else length
        best = {side: min(results[f"{side} {task['dtype']}"]["seconds"][handler], default=None) for side in NEEDS}
        ours = best[task["side"]]
        records.append(
            {"what": handler, "side": name}
            | {key: task[key] for key in ("dtype", "length", "rows")}
            | {
                "best_s": ours,
                "tokens_per_s": each / ours if ours else None,
                "ms_per_token": 1000 * ours / NEW if ours and handler == DECODE else None,
                "speed_over_torch": best[TORCH] / ours if ours and best[TORCH] else None,
                "peak_mb": result.get("peak_mb"),
                "compile_s": result.get("compile_s"),
                "note": result["note"],
            }
        )
    return records


def targets(records: list[dict]) -> list[dict]:
    """Our speed beside transformers' in each record of ours."""
    return [
        record.target(
            f"{r['what']}, {r['rows']} rows at {r['length']} tokens, {r['dtype']}: speed over {TORCH}",
            r["speed_over_torch"],
            at_least=AIMS[r["what"]],
        )
        for r in records
        if r["side"].startswith(OURS)
    ]


def show(records: list[dict]) -> str:
    """The table of the records."""
    number = console.number
    header = ("what", "tokens", "rows", "side", "tokens/s", "ms a token", "x PyTorch", "peak MB", "")
    lines = [
        (r["what"], r["length"], r["rows"], r["side"])
        + tuple(number(r[key]) for key in ("tokens_per_s", "ms_per_token", "speed_over_torch", "peak_mb"))
        + (r["note"],)
        for r in records
    ]
    return console.table(header, lines)


def main(argv: list[str] | None = None) -> int:
    parser = options.parser(__doc__, lengths="512,2048,8192", dtype="float32,bfloat16", rounds=3, out=None, worker=None)
    parser.add_argument("--model", metavar="PATH", default="", help="default: random weights of SmolLM2-135M's shape")
    parser.add_argument("--rows", default="1,8", metavar="N", help="rows that decode together (default: %(default)s)")
    parser.add_argument(
        "--chunk", type=int, default=512, help="tokens that ours reads at a time (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.worker:
        return sides.serve(build, args.worker)
    lengths, rows = console.whole_numbers("--lengths", args.lengths), console.whole_numbers("--rows", args.rows)
    options.dtypes(args.dtype)
    places.check_file("--out", args.out)
    environment, records = record.environment(), []
    with tempfile.TemporaryDirectory() as folder:
        write_model(args.model, pathlib.Path(folder))
        for length, count in ((length, count) for length in lengths for count in rows):
            print(f"{count} rows of {length} tokens ...", file=sys.stderr, flush=True)
            records += measure(folder, length, count, args)
    checked = targets(records)
    print(show(records), record.target_table(checked), sep="\n\n")
    model = args.model or {name: value for name, value in dataclasses.asdict(SMOLLM2).items() if name != "rope"}
    content = {"benchmark": "generate", "environment": environment, "model": model}
    record.write(args.out, content | {"records": records, "targets": checked})
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
