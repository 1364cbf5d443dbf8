"""What each strategy can do, found out by running it: the table of docs/capabilities.md.

    python -m tests.longctx.context_parallel.capabilities         # runs every case and rewrites the table

A cell is ✓ if a case with that feature gave the float64 reference's out, lse and gradients on four simulated
devices, and - if the strategy refuses every case that has it, with an error that says why. A wrong result in any case
fails the tests.
"""

import os
from typing import NamedTuple

from tests.helpers import ROOT

if __name__ == "__main__":
    os.environ["NPROC"] = "32"  # before jax starts, see tests/conftest.py
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp

from longctx.config import MeshConfig
from longctx.context_parallel import api
from longctx.errors import UserError
from pallas_kernels.attention.bias import Alibi, alibi_slopes
from tests.helpers import one_document, packed, problem
from tests.longctx.context_parallel.cut import check

PAGE = ROOT / "docs" / "capabilities.md"
BEGIN, END = "<!-- capabilities: begin -->", "<!-- capabilities: end -->"
HEADS = {"MHA": dict(N=4, K=4), "GQA": dict(N=8, K=2), "MQA": dict(N=4, K=1)}
TWO_LEVELS = [name for name, strategy in api.STRATEGIES.items() if strategy.levels == 2]


class Case(NamedTuple):
    """Values of the features that one run has."""

    mask: str
    layout: str
    heads: str
    documents: str
    dtype: str
    kernel: str  # a strategy hands it pieces and knows no more of it
    extra: str = ""

    def features(self) -> list[str]:
        features = *MASKS[self.mask], self.layout, self.heads, self.documents, self.dtype, self.extra
        return [feature for feature in features if feature]


# mask -> its features; together the cases hold every feature, and each in the company of others
MASKS = {
    "causal": ["causal"],
    "full": ["full"],
    "causal & window(9)": ["window"],
    "causal & (window(5) | sinks(2))": ["window", "sinks"],
    "causal | prefix_lm(20)": ["prefix-LM"],
    "causal & chunked(16)": ["chunked"],
}
CASES = [
    Case("causal", "contiguous", "MHA", "one", "float32", "reference"),
    Case("causal", "zigzag", "GQA", "packed", "bfloat16", "chunked"),
    Case("full", "striped", "MQA", "packed", "float32", "reference"),
    Case("causal & window(9)", "zigzag", "MQA", "one", "float32", "chunked", "soft cap"),
    Case("causal & (window(5) | sinks(2))", "contiguous", "GQA", "packed", "float32", "reference"),
    Case("causal | prefix_lm(20)", "per_document", "GQA", "packed", "float32", "chunked"),
    Case("causal & chunked(16)", "balanced", "GQA", "packed", "float32", "reference", "ALiBi"),
]
COLUMNS = [
    "causal",
    "full",
    "window",
    "sinks",
    "prefix-LM",
    "chunked",
    "soft cap",
    "ALiBi",
    "contiguous",
    "zigzag",
    "striped",
    "per_document",
    "balanced",
    "MHA",
    "GQA",
    "MQA",
    "packed",
    "float32",
    "bfloat16",
]


def row(strategy: str) -> dict[str, str]:
    """Feature -> "✓" or "-". Raises AssertionError where a result is wrong."""
    exact = set()
    for case in CASES:
        for layout in dict.fromkeys([case.layout, "contiguous"]):  # once more, in case it was the layout
            tried = case._replace(layout=layout)
            try:
                _run(strategy, tried)
            except UserError:
                continue
            exact.update(tried.features())
            break
    return {feature: "✓" if feature in exact else "-" for feature in COLUMNS}


def _run(strategy: str, case: Case) -> None:
    info = packed(5, 1, 64, mean=20) if case.documents == "packed" else one_document(1, 64)
    p = problem(B=1, T=64, H=8, dtype=case.dtype, infos=(info, info), **HEADS[case.heads])
    config = MeshConfig(context_outer=2, context=2) if strategy in TWO_LEVELS else MeshConfig(context=4)
    extra = {
        "soft cap": dict(soft_cap=2.0),
        "ALiBi": dict(bias=Alibi(), bias_params=jnp.asarray(alibi_slopes(p.q.shape[2]))),
    }
    check(p, case.mask, config, case.layout, strategy=strategy, kernel=case.kernel, **extra.get(case.extra, {}))


def line(strategy: str, cells: dict[str, str]) -> str:
    return f"| `{strategy}` | " + " | ".join(cells[column] for column in COLUMNS) + " |"


def table(rows: dict[str, dict[str, str]]) -> str:
    head = "| strategy | " + " | ".join(COLUMNS) + " |"
    rule = "|" + "---|" * (len(COLUMNS) + 1)
    return "\n".join([head, rule, *(line(strategy, cells) for strategy, cells in rows.items())])


def main() -> None:
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    rows = {strategy: row(strategy) for strategy in api.STRATEGIES if strategy != "local"}
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")


if __name__ == "__main__":
    main()
