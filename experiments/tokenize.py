"""Tokenises a text of any size once, into a folder that training reads without having it in memory.

    python -m experiments.tokenize --out FOLDER --config FILE [--config.data.path=TEXT ...] [--processes N]
    python -m experiments.train --config FILE --config.data.path=FOLDER

The text is what the config's data settings name; of several sources (data.mix) each has a folder of its own in FOLDER.
What is finished stays where the command is stopped, and the same command goes on. The folder is the same whatever the
number of processes. Held out is what data.holdout says when the folder is read.
"""

import os
import pathlib
import sys
import time

from experiments.run import command
from experiments.settings import config as configs
from experiments.settings import console, places
from longctx.data import mix, texts, tokenizing
from longctx.data.tokenizing import Made
from longctx.errors import UserError
from longctx.memory.sizes import readable


class Said:
    """A bar of the bytes that are done, on a terminal; and how fast it went."""

    def __init__(self, name: str):
        from tqdm import tqdm

        self._bar = tqdm(desc=name, unit="B", unit_scale=True, disable=not sys.stderr.isatty())
        self._began, self._done, self._new, self._units = time.monotonic(), 0, 0, 0

    def __call__(self, made: Made, units: int) -> None:
        self._units += 1
        self._done += made.bytes
        self._new += 0 if made.was_there else made.bytes
        self._bar.total = round(self._done * units / self._units)
        self._bar.update(made.bytes)

    def end(self) -> str:
        """A sentence about the speed."""
        self._bar.close()
        seconds = max(time.monotonic() - self._began, 1e-9)
        kept = f"; {readable(self._done - self._new)} were there already" if self._new < self._done else ""
        return f"{readable(self._done)} in {seconds:.1f} s, {self._new / seconds / 1e6:.1f} MB/s{kept}"


def main(argv) -> None:
    parser = console.Parser(__doc__)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder that is made")
    workers = os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=workers, metavar="N", help="at once (default: %(default)s)")
    options, settings = parser.parse_with_settings(argv[1:])
    if options.processes < 1:
        raise UserError(f"--processes={options.processes} must be at least 1.")
    places.check_folder("--out", pathlib.Path(options.out))
    config, _ = configs.from_command_line([argv[0], *settings])
    mix.check(config.data, ())
    for name, own in texts.named(config.data).items():
        folder = pathlib.Path(options.out) / name if config.data.mix else pathlib.Path(options.out)
        said = Said(name)
        made = tokenizing.tokenize(own, folder, options.processes, said)
        print(*made.notes, sep="\n", end="\n" if made.notes else "")
        tokens = int(made.table.inputs.sum()) + len(made.table.inputs)
        print(f"{folder}: {len(made.table.inputs):,} documents, {tokens:,} tokens; {said.end()}", flush=True)


if __name__ == "__main__":
    command.run(main)
