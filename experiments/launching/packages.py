"""Commands that prepare an Ubuntu machine for a run: a Python that is new enough, and the packages."""

ENVIRONMENT = "~/env"
_APT = "sudo apt-get -q -o DPkg::Lock::Timeout=300"  # a machine that has just begun may be updating itself


def apt(*names: str) -> str:
    """The command of a shell that installs packages of Ubuntu."""
    return f"{_APT} update && {_APT} install -y {' '.join(names)}"


def install(platform: str) -> str:
    """The commands of a shell, in the folder of this project, for "tpu" or "gpu".

    Ubuntu 22.04, of most runtimes for TPUs, has Python 3.10 for itself; 3.11 is among its packages.
    """
    return (
        "py=python3; $py -c 'import sys; sys.exit(sys.version_info < (3, 11))' || py=python3.11; "
        f"{apt('$py-venv')}; $py -m venv {ENVIRONMENT}; {ENVIRONMENT}/bin/pip install -q -e '.[{platform},data]'"
    )
