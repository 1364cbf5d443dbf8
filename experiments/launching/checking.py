"""What `python -m experiments.launch --check` prints: the cluster that a run started here would be part of."""

import socket

from experiments.settings import cluster
from experiments.settings.console import table


def report() -> str:
    """The kind of cluster, the variables it was recognised by, and what a run would make of them.

    Raises UserError where the environment contradicts itself.
    """
    found = cluster.detect()
    known = lambda value: "jax finds it" if value is None else str(value)
    rows = [
        ("cluster", found.kind),
        ("processes", str(found.processes)),
        ("this one", known(found.index)),
        ("coordinator", _reached(found.coordinator) if found.processes > 1 else "not needed"),
        ("devices", "not said" if found.devices is None else f"{found.devices} in all processes"),
    ]
    given = [(name, value if len(value) < 100 else f"{value[:97]}...") for name, value in found.given]
    said = table(("by", "value"), [(name, value.replace("\n", " ")) for name, value in given]) if given else ""
    kinds = f"No cluster was recognised; known: variables, {', '.join(cluster.KINDS)}." if not given else ""
    return "\n".join([table(("what", "is"), rows), "", said or kinds])


def _reached(address: str | None) -> str:
    """The coordinator's address, and whether its name is known on this machine."""
    if address is None:
        return "jax finds it"
    host = address.rsplit(":", 1)[0].strip("[]")
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except OSError as error:
        return f"{address}, but the name is not known here: {error.strerror}"
    return f"{address} ({', '.join(found)})"
