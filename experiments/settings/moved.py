"""Former names of modules, with which commands and config files that people have still work."""

import importlib.abc
import importlib.util
import sys

MOVED = {
    f"experiments.{old}": f"experiments.{new}"
    for old, new in {
        "bench_attention": "bench.attention",
        "bench_balance": "bench.balance",
        "bench_kernels": "bench.kernels",
        "bench_load": "bench.load",
        "bench_memory": "bench.memory",
        "bench_train": "bench.train_step",
        "gpu_check": "bench.gpu_check",
        "plan_table": "bench.longest",
        "tune_kernels": "bench.tune_kernels",
        "config": "settings.config",
        "shapes": "settings.models",
    }.items()
}


class Moved(importlib.abc.MetaPathFinder):
    """A finder of modules by their former names, which prints the new name on stderr."""

    def find_spec(self, name, path=None, target=None):
        new = MOVED.get(name)
        if new is None:
            return None
        print(f"{name} is {new} now", file=sys.stderr)
        return importlib.util.spec_from_file_location(name, importlib.util.find_spec(new).origin)
