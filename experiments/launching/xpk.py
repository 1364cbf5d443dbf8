"""TPU slices on Kubernetes by XPK, which makes the JobSet and queues it."""

from experiments.launching import slices
from experiments.launching.launcher import Launcher, Plan, slice_options
from longctx.errors import UserError


class Xpk(Launcher):
    """Asks XPK to create a workload on TPU slices; disks are those that `xpk storage attach` gave to the cluster."""

    def options(self, parser):
        slice_options(parser)
        parser.add_argument("--cluster", required=True, help="that `xpk cluster create` has made")
        parser.add_argument("--image", required=True, help="as `launch docker` has pushed it")
        parser.add_argument("--zone", default="", help="of Google Cloud; default gcloud's own")
        parser.add_argument("--project", default="", help="of Google Cloud; default gcloud's own")
        parser.add_argument("--restarts", type=int, default=100, metavar="N", help="the most that a run starts again")

    def plan(self, options, train):
        one = slices.parse(options.type)
        train = train.on(one.chips * options.slices, f"{options.slices} x {options.type}")
        if not any(word.split("=")[0] == "--workdir" for word in train.arguments):
            raise UserError("--workdir is missing after --: give a folder on a disk that is attached to the cluster.")
        create = [
            "xpk",
            "workload",
            "create",
            "--workload",
            options.name,
            "--cluster",
            options.cluster,
            *_where(options),
        ]
        create += ["--tpu-type", one.accelerator_type, "--num-slices", str(options.slices)]
        create += ["--docker-image", options.image, "--max-restarts", str(options.restarts)]
        return Plan(commands=[[*create, "--restart-on-user-code-failure", "--command", train.line("tpu")]])

    def delete(self, options):
        delete = ["xpk", "workload", "delete", "--workload", options.name, "--cluster", options.cluster]
        return Plan(commands=[[*delete, "--force", *_where(options)]])


def _where(options) -> list[str]:
    given = {"--project": options.project, "--zone": options.zone}
    return [word for name, value in given.items() if value for word in (name, value)]
