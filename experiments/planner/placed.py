"""experiments.plan --placing: schemes of placing the documents of a config's batch on devices, compared and saved."""

import json

from experiments.hardware import targets
from experiments.hardware.targets import CHIPS
from experiments.meter import rows
from experiments.planner import placing
from experiments.planner.auto import ASSUMED
from experiments.planner.command import Request
from experiments.settings import checks


def show(request: Request) -> None:
    """Prints the table of the longest stage's first batch, and saves it as placing.json.

    Raises UserError where the target has not the devices of the mesh, or the documents cannot be read.
    """
    config, target = request.config, request.target
    stage = max(checks.check_settings(config), key=lambda stage: stage.seq_len)
    targets.check_devices(config.mesh, target)
    chip = target.chip or CHIPS[ASSUMED]
    batch = next(iter(rows.of_lengths(config, stage, request.options.lengths)))
    records, refused = placing.of_batch(config, chip, batch)
    count = batch["segments"].max(1).sum()
    print(
        f"{count:,} documents ({request.options.lengths}) in {stage.batch_size} x {stage.seq_len:,} tokens on "
        f"{config.mesh.devices} devices of {target.name}, {config.mesh}:\n"
        + placing.table(records, "scheme")
        + "\n"
        + placing.LEGEND
    )
    for scheme, reason in refused.items():
        print(f"{scheme}: {reason}")
    print("Predicted, not measured, assuming that " + "; ".join(placing.assumptions(chip)) + ".")
    request.folder.mkdir(parents=True, exist_ok=True)
    path = request.folder / "placing.json"
    path.write_text(json.dumps({"records": records, "refused": refused}, indent=1) + "\n")
    print("saved:", path)
