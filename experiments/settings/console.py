"""Command-line options beside --config and --workdir, error messages, tables and progress on a terminal. Free of jax.

    parser = Parser(__doc__)                           # an argparse.ArgumentParser
    parser.add_argument("--target", required=True)
    args = parser.parse_args(argv)
    args, settings = parser.parse_with_settings(argv)  # settings: --config and --config.field=value, for command_line

A mistake becomes one line, "error: ...", on stderr and exit code 2, like a longctx.errors.UserError.
"""

import argparse
import contextlib
import difflib
import functools
import pathlib
import re
import sys
import time

from experiments.settings import places
from longctx.errors import UserError, unknown_name

# argparse's messages -> messages in the style of longctx.errors
_MESSAGES = {
    r"the following arguments are required: ([^,]*).*": "{0} is missing; --help says what it takes.",
    r"argument (.*): invalid (\w+) value: '(.*)'": "{0}={2} must be {1}.",
    r"argument (.*): invalid choice: '?(.*?)'? \(choose from (.*)\)": "{0}={1} is not known. Known: {2}.",
    r"argument (.*): expected one argument": "{0} needs a value.",
    r"argument (.*): ignored explicit argument '(.*)'": "{0} takes no value, and {1!r} was given.",
    r"unrecognized arguments: (\S+).*": "argument {0!r} belongs to no option; --help lists them.",
}
_NUMBER = re.compile(r"-[\d.][\d.eE+-]*")


def complain(error) -> int:
    """Prints the message of a UserError on stderr and returns the exit code 2."""
    print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
    return 2


def _module(path: str) -> str:
    """The name of a command's module from the path of its file, as python -m takes it: experiments.bench.attention."""
    parts = pathlib.Path(path).with_suffix("").parts
    roots = [i for i, part in enumerate(parts) if part == "experiments"]
    return ".".join(parts[roots[-1] :] if roots else ("experiments", *parts[-1:]))


class Parser(argparse.ArgumentParser):
    """A parser that takes options by their whole names only and refuses addresses such as gs://bucket as paths.

    description: the command's docstring, shown by --help.
    """

    def __init__(self, description: str):
        super().__init__(
            prog=f"python -m {_module(sys.argv[0])}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        self._check_names(args, ())
        return self._parsed(args, namespace)

    def parse_with_settings(self, args: list[str], texts: tuple[str, ...] = ()) -> tuple[argparse.Namespace, list[str]]:
        """(options, other arguments): --config and --config.field=value may stand among the options.

        texts: the options that are texts, no names of files.
        """
        self._check_names(args, ("--config",))
        return self._parsed(args, None, texts)

    def error(self, message: str):
        for pattern, words in _MESSAGES.items():
            if match := re.fullmatch(pattern, message, re.DOTALL):
                message = words.format(*match.groups())
                break
        sys.exit(complain(message))

    def _parsed(self, args, namespace, texts: tuple[str, ...] = ()):
        options, rest = super().parse_known_args(args, namespace)
        for name, value in vars(options).items():
            if name not in texts:
                places.check_local(f"--{name.replace('_', '-')}", value)
        return options, rest

    def _check_names(self, args: list[str], also: tuple[str, ...]) -> None:
        """Exits with an error for an option that does not exist, and suggests the nearest one."""
        known = [name for name in self._option_string_actions if name.startswith("--")] + list(also)
        for word in args:
            name = word.split("=")[0]
            settings = also and (name in also or name.startswith(("--config.", "--noconfig.")))
            if settings or not name.startswith("-") or name in self._option_string_actions or _NUMBER.fullmatch(word):
                continue
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            self.error(f"{name} is not an option.{hint} Known: {', '.join(sorted(known))}.")


def names(option: str, text: str, known) -> list[str]:
    """The names in a text such as "v5e,v6e". Raises UserError for one that is not in `known`."""
    for name in text.split(","):
        if name not in known:
            raise unknown_name(option, name, known)
    return text.split(",")


def table(header, rows) -> str:
    """A table in plain text, with columns of numbers (and dashes) aligned right and columns of words left."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    is_number = [all(row[i][:1].isdigit() or row[i] == "-" for row in rows) for i in range(len(header))]
    line = lambda row: "  ".join(
        cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, is_number, strict=True)
    ).rstrip()
    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def whole_numbers(option: str, text: str) -> list[int]:
    """The numbers in a text such as "4096,8192". Raises UserError for anything else, naming the option."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{option}={text} must be whole numbers above 0 with commas between them, such as 4096,8192.")
    return [int(part) for part in parts]


def number(value: float | None, digits: int = 3) -> str:
    """`value` as text with `digits` significant digits; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{float(f'{value:.{digits}g}'):.{digits}g}"


@contextlib.contextmanager
def phase(what: str, stream=None, size: int = 0):
    """A context that reports the phase `what` of a command, and at its end the seconds that it took.

    On stderr by default, since people parse stdout. On a terminal the seconds are also counted while it lasts; and
    bytes, of `size` in all where that is known, as the function that the context gives is told how many more are done.
    """
    stream, started = stream or sys.stderr, time.monotonic()
    progress, advance = contextlib.nullcontext(), int
    if stream.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            *((BarColumn(), DownloadColumn()) if size else ()),
            TimeElapsedColumn(),
            console=Console(file=stream),
            transient=True,
        )
        advance = functools.partial(progress.advance, progress.add_task(what, total=size or None))
    else:
        print(f"{what} ...", file=stream, flush=True)
    with progress:
        yield advance
    print(f"{what}: {time.monotonic() - started:.1f} s", file=stream, flush=True)
