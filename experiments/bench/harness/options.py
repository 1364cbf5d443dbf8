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


def whole_numbers(option: str, text: str) -> list[int]:
    """The numbers in a text such as "2048,8192". Raises UserError for anything else, naming the option."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{option}={text} must be whole numbers above 0 with commas between them, such as 2048,8192.")
    return [int(part) for part in parts]


def dtypes(text: str) -> list[str]:
    """The names in --dtype. Raises UserError for an unknown one."""
    return names("--dtype", text, DTYPES)


def command(main, argv: list[str] | None = None) -> int:
    """Runs main(argv) and returns its exit code; a UserError becomes one line on stderr and exit code 2."""
    try:
        return main(argv)
    except UserError as error:
        return complain(error)
