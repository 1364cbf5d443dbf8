"""The settings of the commands: those of a run (longctx.config), and beside them what only experiments.extend reads.

Imports neither jax nor any package but longctx.
"""

import dataclasses

from longctx.config import Config, RecallConfig


@dataclasses.dataclass(frozen=True)
class ExtendConfig:
    """What experiments.extend compares. The trained length is the seq_len of the last stage, or what a model that is
    given is made for."""

    # "recall" asks a model that is trained here; "passkey", and "loss" of held-out text by position, ask one that is
    # given (init_from). () = recall; or passkey, and loss too where data.path is set.
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = (
        "none",
        "linear",
        "ntk",
        "dynamic",
        "yarn",
        "self_extend",
        "rerope",
        "leaky_rerope",
        "dca",
        "lm_infinite",
        "streaming",
    )  # names in longctx.positions.extension.EXTENSIONS
    lengths: tuple[int, ...] = ()  # tokens; () = 1, 2, 4, 8 and 16 times the trained one, which is added to longer ones
    rows: int = 32  # per method and length: prompts with one passkey, or rows that ask for every needle
    depths: int = 8  # how many parts of the haystack are told apart
    tunings: tuple[str, ...] = ()  # names in longctx.positions.extension.TUNINGS
    tune_length: int = 0  # tokens that these are for; 0 = 8 times the trained length
    tune_steps: int = 100
    tune_learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Settings(Config):
    """Everything that a config file or a command line can set. Runs store their Settings as nested dicts."""

    recall: RecallConfig = RecallConfig()
    extend: ExtendConfig = ExtendConfig()
