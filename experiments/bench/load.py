"""Times longctx.hf.load, and measures the host memory that it needs beside the arrays that it returns.

    python -m experiments.bench.load --out load.json

A Llama of random weights is written to a temporary folder, in several files, and read onto 1 and 2 x 2 devices (fsdp,
tensor) simulated on the CPU, where the arrays lie in host memory too: loading needs the growth of the process's peak
memory less the arrays. Each mesh and dtype has a process of its own, which has loaded a small model before.
"""

import json
import pathlib
import sys
import tempfile
import time

import numpy as np

from experiments.bench.harness import options, record, sides
from experiments.settings import console, places
from longctx import hf
from longctx.config import MeshConfig
from longctx.errors import UserError
from longctx.hf import files

MESHES = {"1 device": {}, "fsdp 2 x tensor 2": {"fsdp": 2, "tensor": 2}}
LIMIT = 1.3  # memory beside the arrays / size of the largest tensor
LAYERS = 3


def make(folder: pathlib.Path, width: int, D: int) -> None:
    """Writes a float32 checkpoint whose largest tensors, the embedding and the feed-forward's, are [width, D]."""
    sizes = {
        "vocab_size": width,
        "hidden_size": D,
        "intermediate_size": width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    shapes = {"model.embed_tokens.weight": (width, D), "lm_head.weight": (width, D), "model.norm.weight": (D,)}
    layer = {
        "self_attn.q_proj": (D, D),
        "self_attn.k_proj": (D // 2, D),
        "self_attn.v_proj": (D // 2, D),
        "self_attn.o_proj": (D, D),
        "mlp.gate_proj": (width, D),
        "mlp.up_proj": (width, D),
        "mlp.down_proj": (D, width),
        "input_layernorm": (D,),
        "post_attention_layernorm": (D,),
    }
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in layer.items()}
    planned = {name: files.Planned(shape, np.dtype(np.float32)) for name, shape in shapes.items()}
    rng = np.random.default_rng(0)
    folder.mkdir()
    files.write(folder, planned, lambda name: rng.standard_normal(shapes[name], np.float32), 16 * width * D)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))


def build(task: dict):
    """(ready, handlers) for a worker, see sides.serve; its request "load" reads the large checkpoint."""
    import jax

    from longctx import meshes

    config = MeshConfig(**task["mesh"])
    meshes.simulate(config.devices)
    mesh = meshes.make(config)
    read = lambda name: hf.load(pathlib.Path(task["folder"]) / name, mesh=mesh, dtype=task["dtype"])
    read("small")

    def load():
        sides.reset_peak()
        before, start = sides.peak_mb(), time.perf_counter()
        model = read("large")
        seconds = time.perf_counter() - start
        arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params)) / sides.MIB
        return {"seconds": seconds, "arrays_mb": arrays, "beside_mb": sides.peak_mb() - before - arrays}

    return {}, {"load": load}


def measure(megabytes: int) -> list[dict]:
    """A record per mesh and dtype."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        D = 1024 if megabytes >= 16 else 128
        make(folder / "large", megabytes * sides.MIB // (4 * D), D)
        make(folder / "small", 128, 64)
        for mesh, sizes in MESHES.items():
            for dtype in options.DTYPES:
                task = {"folder": str(folder), "mesh": sizes, "dtype": dtype}
                with sides.Worker("experiments.bench.load", task) as worker:
                    reply = worker.ask("load")
                records.append({"mesh": mesh, "dtype": dtype, "largest_mb": megabytes} | reply)
    return records


def main(argv: list[str] | None = None) -> int:
    parser = options.parser(__doc__, out=None, worker=None)
    parser.add_argument("--megabytes", type=int, default=128, help="size of the largest tensor (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.worker:
        return sides.serve(build, args.worker)
    if args.megabytes < 1:
        raise UserError(f"--megabytes={args.megabytes} must be 1 or more.")
    places.check_file("--out", args.out)
    environment, records = record.environment(), measure(args.megabytes)
    number = console.number
    print(
        console.table(
            ("mesh", "dtype", "arrays MiB", "seconds", "MiB beside"),
            [
                (r["mesh"], r["dtype"], number(r["arrays_mb"]), number(r["seconds"]), number(max(r["beside_mb"], 0)))
                for r in records
            ],
        )
    )
    worst = max(r["beside_mb"] / r["largest_mb"] for r in records)
    checked = [record.target("memory beside the arrays / largest tensor", max(worst, 0), at_most=LIMIT)]
    print("\n" + record.target_table(checked))
    record.write(args.out, {"benchmark": "load", "environment": environment, "records": records, "targets": checked})
    return 0


if __name__ == "__main__":
    sys.exit(options.command(main))
