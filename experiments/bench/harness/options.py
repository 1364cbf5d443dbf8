"""What the benchmarks share beside their workers: options, the record of the machine, tables, targets, JSON."""

import argparse

from experiments.settings.console import Parser, complain, names
from longctx.errors import UserError

DTYPES = ("float32", "bfloat16")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")


OPTIONS = {
    "lengths": dict(help="tokens, with commas (default: %(default)s)"),
    "dtype": dict(help="(default: %(default)s)"),
    "rounds": dict(type=int, help="times that every side is asked in turn (default: %(default)s)"),
    "out": dict(metavar="FILE.json", help="write all numbers and the environment here"),
    "worker": dict(help=argparse.SUPPRESS),
}


def parser(description: str, **defaults) -> Parser:
    """Of OPTIONS those that a benchmark has, with their defaults."""
    result = Parser(description)
    for name, default in defaults.items():
        result.add_argument(f"--{name}", default=default, **OPTIONS[name])
    return result


def whole_numbers(option: str, text: str) -> list[int]:
    """ "2048,8192" -> [2048, 8192]."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{option}={text} must be whole numbers above 0 with commas between them, such as 2048,8192.")
    return [int(part) for part in parts]


def dtypes(text: str) -> list[str]:
    return names("--dtype", text, DTYPES)


def command(main, argv: list[str] | None = None) -> int:
    """Runs main(argv); a UserError is one line on stderr and exit code 2."""
    try:
        return main(argv)
    except UserError as error:
        return complain(error)
