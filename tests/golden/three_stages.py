"""A config for the tests of settings: all defaults, three lengths."""

from experiments.settings import config as configs


def get_config():
    config = configs.defaults()
    config.name = "three-stages"
    config.stages = tuple(configs.stage(seq_len=length, steps=10) for length in (512, 2048, 8192))
    return config
