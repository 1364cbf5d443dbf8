"""The command line that experiments.plan and experiments.comm have in common."""

import argparse
import pathlib
from typing import NamedTuple

from experiments.hardware import targets
from experiments.hardware.targets import Target
from experiments.settings import config as configs
from experiments.settings import places
from experiments.settings.console import Parser
from longctx.config import Config


class Request(NamedTuple):
    """The options of a command line, its settings for the target hardware, and the folder to save in."""

    options: argparse.Namespace
    config: Config
    target: Target
    folder: pathlib.Path


def parser(description: str) -> Parser:
    """A parser of --target, --compare, --lengths and --workdir; description: the command's docstring."""
    result = Parser(description)
    result.add_argument("--target", required=True, help="the hardware, such as h100x8 or v5e:4x4")
    result.add_argument("--compare", metavar="WHAT", help="rank variants of the config: strategies, meshes or levers")
    result.add_argument(
        "--lengths",
        default="data",
        help="lengths of the documents over which shards are balanced: data, document, web, code, prolong "
        "(default: %(default)s)",
    )
    result.add_argument("--workdir", metavar="DIR", help="where to save (default: runs/NAME/COMMAND-TARGET)")
    return result


def parse(parser: Parser, argv: list[str], command: str, simulate: bool = False) -> Request:
    """The request of a command line, with attention.strategy="auto" and layout="auto" settled for the target.

    simulate: whether the target may be simulated devices. Raises UserError for the first mistake.
    """
    options, settings = parser.parse_with_settings(argv[1:])
    config, run = configs.from_command_line([argv[0], *settings])
    folder = pathlib.Path(options.workdir or run / f"{command}-{options.target.replace(':', '-')}")
    places.check_folder("--workdir", folder)
    target = targets.target(options.target, simulate)
    from experiments.meter import rows  # imports jax, for which `target` has set the environment
    from experiments.planner import auto

    rows.check(options.lengths)
    config = auto.settle(config, target, lambda stage: rows.of_lengths(config, stage, options.lengths))
    return Request(options, config, target, folder)
