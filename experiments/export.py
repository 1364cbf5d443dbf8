"""Write the newest checkpoint of a run as a folder that Hugging Face's from_pretrained loads.

    python -m experiments.export --workdir DIR --out FOLDER [--adapter]

A run that started from such a folder (init_from) gives its config.json back, with the RoPE of the stage that the
checkpoint was made in, and its tokenizer, from the copies in the workdir; another one becomes a model of the first
architecture that can say its settings, with the tokenizer that it was trained with. Low-rank adapters are merged;
--adapter writes them alone, as a folder in peft's format.
"""

from experiments.planner import price
from experiments.run import command, processes
from experiments.settings import config as configs
from experiments.settings import places
from experiments.settings.console import Parser
from longctx.errors import UserError


def check_adapter(config) -> None:
    """Raises UserError for a run whose training adapters alone do not hold."""
    if not config.model.lora.rank:
        raise UserError("--adapter: the run has no adapters (model.lora.rank=0); leave it out.")
    if config.optim.trains:
        raise UserError(
            f"--adapter writes adapters alone, and optim.trains={config.optim.trains} trained more; without it the "
            "whole model is written."
        )


def main(argv) -> None:
    parser = Parser(__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    parser.add_argument("--out", required=True, help="the folder to write, without weights in it")
    parser.add_argument("--adapter", action="store_true", help="the low-rank adapters alone, in peft's format")
    options = parser.parse_args(argv[1:])
    config, workdir = configs.from_workdir([argv[0], "--workdir", options.workdir])
    places.check_folder("--out", options.out)
    if options.adapter:
        check_adapter(config)

    from experiments.run.records import load_params
    from longctx import hf
    from longctx.data import curriculum

    mesh = processes.start(config.mesh)
    price.check(config, mesh)
    step, params = load_params(config, workdir, mesh)
    if options.adapter:
        source, base = config.init_from or None, configs.stored(workdir)["init_from"]
        hf.save_adapter({"params": params}, options.out, config=config.model, source=source, base=base)
        print(f"step {step} of {config.name}: {options.out}, the adapters alone", flush=True)
        return
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
