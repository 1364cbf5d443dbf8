"""Fine-tuning on long documents: low-rank adapters of a model of Llama's family, on rows of 64K tokens.

    python -m experiments.train --config configs/recipes/sft_long.py \\
        --config.init_from=FOLDER --config.data.path=DOCUMENTS                  # on one H100
    python -m experiments.train --config configs/recipes/sft_long.py:chat \\
        --config.init_from=FOLDER --config.data.path=CONVERSATIONS              # .jsonl, answers alone count
    python -m experiments.export --workdir runs/sft-long --out MODEL            # merged; with --adapter, for peft
    python -m experiments.train --config configs/recipes/sft_long.py:smoke      # 2 steps of a tiny model

A document is text, such as a report with questions and answers behind it: a file, or the field of a .jsonl that
data.text_field names, and every token of it counts in the loss. With `chat` it is a conversation, a list of messages in
a line of a .jsonl, written by the chat template of FOLDER; the answers alone count, each conversation the same
(LongAlign, arXiv 2401.18058), and one longer than a row loses the middle of what does not count. For finished prompts
with completions add --config.data.records=completion. Documents that share a row do not see one another.

Arguments: model, a name of experiments.settings.models (Llama 3 8B), of which FOLDER must have the sizes; lora, the
rank of the adapters (16), 0 to train all weights; length (64K); chat; fsdp=N rows a step, over as many devices each as
context=N; steps; smoke. A model of shorter rows needs a RoPE for these: --config.model.rope.scaling=yarn, .factor=8.

    python -m experiments.plan --target h100x1 --config configs/recipes/sft_long.py
    python -m experiments.plan --target h100x8 --config configs/recipes/sft_long.py:fsdp=8
    python -m experiments.plan --target v5e:4x4 --config configs/recipes/sft_long.py:fsdp=2,context=8

All three on 2026-11-30, jax 0.10.2, nothing run:
h100x1: fits; device 54.3 of 72.0 GiB, host 0.0 of 1769.5 GiB (compiled);
a step of 1 row 12 s, MFU 45% (predicted);
h100x8: fits; device 41.6 of 72.0 GiB, host 0.0 of 221.2 GiB (compiled);
a step of 8 rows 12 s, MFU 45% (predicted);
v5e:4x4: fits; device 9.1 of 15.8 GiB, host 0.0 of 44.7 GiB (compiled);
a step of 2 rows 4.68 s, MFU 73% (predicted).
"""

from experiments.settings import arguments, defaults, models


def get_config(arg: str = ""):
    args = arguments(
        arg, model="llama3_8b", lora=16, length=2**16, fsdp=1, context=1, steps=500, chat=False, smoke=False
    )
    config = defaults()
    config.name = "sft-long"
    models.fill_for_tuning(config, args, args.length)
    config.memory.mlp_tiles = 8
    if args.chat:
        config.data.update(records="messages", too_long="middle", loss_weights="sequences")
    if args.lora:
        config.optim.weight_decay = 0.0
    return config
