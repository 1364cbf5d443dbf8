"""Write the newest checkpoint of a run as a folder that Hugging Face's from_pretrained loads.

    python -m experiments.export --workdir DIR --out FOLDER

A run that started from such a folder (init_from) gives its config.json back, with the RoPE of the stage that the
checkpoint was made in, and its tokenizer, from the copies in the workdir; another one becomes a model of the first
architecture that can say its settings, with the tokenizer that it was trained with.
"""

from experiments.planner import price
from experiments.run import command, processes
from experiments.settings import config as configs
from experiments.settings import places
from experiments.settings.console import Parser


def main(argv) -> None:
    parser = Parser(__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    parser.add_argument("--out", required=True, help="the folder to write, without weights in it")
    options = parser.parse_args(argv[1:])
    config, workdir = configs.from_workdir([argv[0], "--workdir", options.workdir])
    places.check_folder("--out", options.out)

    from experiments.run.records import load_params
    from longctx import hf
    from longctx.data import curriculum

    mesh = processes.start(config.mesh)
    price.check(config, mesh)
    step, params = load_params(config, workdir, mesh)
    longest = max(stage.seq_len for stage in curriculum.plan(config) if stage.first_step < step)
    data = config.data if config.data.tokenizer != config.init_from else None
    hf.save(
        {"params": params},
        options.out,
        config=config.model,
        source=config.init_from or None,
        longest=longest,
        data=data,
    )
    print(f"step {step} of {config.name}: {options.out}", flush=True)


if __name__ == "__main__":
    command.run(main)
