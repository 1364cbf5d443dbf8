"""Command-line options of the benchmarks."""

import argparse

from experiments.settings.console import Parser, complain, names
from longctx.errors import UserError

DTYPES = ("float32", "bfloat16")
OPTIONS = {
    "lengths": dict(help="tokens, with commas (default: %(default)s)"),
    "dtype": dict(help="with commas (default: %(default)s)"),
    "rounds": dict(type=int, help="rounds in which every side runs in turn (default: %(default)s)"),
    "out": dict(metavar="FILE.json", help="write all numbers and the environment here"),
    "worker": dict(help=argparse.SUPPRESS),
}


def parser(description: str, **defaults) -> Parser:
    """An argument parser with the named OPTIONS and their defaults."""
    result = Parser(description)
    for name, default in defaults.items():
        result.add_argument(f"--{name}", default=default, **OPTIONS[name])
    return result


def dtypes(text: str) -> list[str]:
    """The names in --dtype. Raises UserError for an unknown one."""
    return names("--dtype", text, DTYPES)


def command(main, argv: list[str] | None = None) -> int:
    """Runs main(argv) and returns its exit code; a UserError becomes one line on stderr and exit code 2."""
    try:
        return main(argv)
    except UserError as error:
        return complain(error)
