"""An image with this folder and the packages for one kind of hardware, for clusters that start containers."""

from experiments.launching.launcher import Launcher, Plan, written

# CUDA comes with jax's packages; the host needs the driver alone
_FILE = """\
FROM python:3.12-slim
WORKDIR /longctx
COPY setup.py pyproject.toml README.md ./
COPY pallas_kernels pallas_kernels
COPY longctx longctx
COPY experiments experiments
COPY configs configs
RUN pip install --no-cache-dir -e '.[{platform},data]'
ENV PYTHONUNBUFFERED=1
CMD ["python", "-m", "experiments.launch", "--check"]
"""


class Docker(Launcher):
    """Builds an image of this folder for TPUs or GPUs, and pushes it: `docker --image IMAGE --platform tpu`."""

    needs_train = False

    def options(self, parser):
        parser.add_argument("--image", required=True, help="its name, with the registry that the cluster reads")
        parser.add_argument("--platform", required=True, choices=("tpu", "gpu"), help="whose packages it has")

    def plan(self, options, train):
        path = written(options, "Dockerfile")
        build = ["docker", "build", "--tag", options.image, "--file", path, "."]
        return Plan({"Dockerfile": _FILE.format(platform=options.platform)}, [build, ["docker", "push", options.image]])
