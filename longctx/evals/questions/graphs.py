"""Walks on a directed graph that is given as a list of edges."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from longctx.evals.questions import scores, words
from longctx.evals.questions.question import Query, Sample

TASK = "Below are the edges of a directed graph, one on each line, from the node on the left to that on the right.\n"
NEAR = "\nWhich nodes are exactly {depth} {steps} away from node {node}, by the shortest path along the edges?"
PARENTS = "\nWhich nodes have an edge that leads to node {node}?"
FORMAT = ' End with one line: "The nodes are:" and the names, with commas between them.'
PREFIX = " The nodes are:"
REVISITS = 0.25  # share of the edges of the walk that lead to a node which has been met
_EDGE = re.compile(r"^([0-9a-f]{10}) -> ([0-9a-f]{10})$", re.MULTILINE)
_NODE = re.compile(r"(?<!\w)[0-9a-f]{10}(?!\w)")

Edge = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Graphwalks:
    """Nodes are asked for: those so many steps from a node, or those with an edge to it.

    Attributes:
      asks: "bfs" or "parents".
      depth: steps from the node, for "bfs".
      degree: edges that leave each node of the walk, and other nodes on average; a node has 1 to 2 * degree parents.
    """

    asks: str = "bfs"
    depth: int = 2
    degree: int = 3
    smallest: int = 8
    source: str = (
        "Graphwalks of OpenAI (2025), with our own instructions and graphs; exactly at the depth, and never an empty "
        "answer"
    )
    diffusion: str = "high"
    scope: str = "high"

    def __post_init__(self):
        if self.asks not in ("bfs", "parents") or self.depth < 1 or self.degree < 1:
            raise ValueError(f"{self} asks for something unknown, or of no depth or degree.")

    @property
    def what(self) -> str:
        """See Questions."""
        return f"nodes {self.depth} steps from a node" if self.asks == "bfs" else "the parents of a node"

    @property
    def budget(self) -> int:
        """See Questions: for the most nodes that an answer may have, 10 hexadecimal digits each."""
        return 12 * (self.degree**self.depth if self.asks == "bfs" else 2 * self.degree) + 16

    def sample(self, rng: np.random.Generator, size: int) -> Sample:
        """See Questions. size: edges besides those that the answer follows from."""
        names = _nodes(rng, set())
        start = next(names)
        if self.asks == "bfs":
            edges, closed = self._walk(rng, start, names)
            question = NEAR.format(depth=self.depth, steps="step" if self.depth == 1 else "steps", node=start)
        else:
            parents = words.take(names, int(rng.integers(1, 2 * self.degree + 1)))
            edges, closed = [(parent, start) for parent in parents], []
            question = PARENTS.format(node=start)
        gold = self._found(edges, start, self.depth)
        hay = np.random.default_rng(rng.integers(1 << 62))
        edges += self._others(hay, edges, start, closed, size)
        order = hay.permutation(len(edges))
        lines = [f"{edges[i][0]} -> {edges[i][1]}" for i in order]
        return Sample(TASK + "\n".join(lines), (Query(question + FORMAT, PREFIX, gold),))

    def _walk(self, rng: np.random.Generator, start: str, names: Iterator[str]) -> tuple[list[Edge], list[str]]:
        """The edges that leave nodes nearer to the start than the depth, and these nodes."""
        met, layer, edges, closed = [start], [start], [], []
        for _ in range(self.depth):
            following: list[str] = []
            for node in layer:
                targets: list[str] = []
                for _ in range(self.degree):
                    old = met[rng.integers(len(met))] if following and rng.random() < REVISITS else node
                    if old == node or old in targets:
                        old = next(names)
                        following.append(old)
                        met.append(old)
                    targets.append(old)
                edges += [(node, target) for target in targets]
            closed += layer
            layer = following
        return edges, closed

    def _others(
        self, hay: np.random.Generator, edges: list[Edge], start: str, closed: list[str], size: int
    ) -> list[Edge]:
        """Edges that change no answer: none leaves a closed node, and for "parents" none leads to the start.

        An edge that leaves a node at the depth, or one beyond the walk, makes no path of the depth or less.
        """
        known = list(dict.fromkeys(node for edge in edges for node in edge))
        used = set(known)
        nodes = known + words.take(_nodes(hay, used), max(size // self.degree, len(known)))
        barred = set(closed)
        sources = [node for node in nodes if node not in barred]
        targets = [node for node in nodes if node != start or self.asks == "bfs"]
        taken, found = set(edges), []
        while len(found) < size:
            pairs = hay.integers(0, (len(sources), len(targets)), (size, 2)).tolist()
            for edge in ((sources[i], targets[j]) for i, j in pairs):
                if edge[0] != edge[1] and edge not in taken and len(found) < size:
                    taken.add(edge)
                    found.append(edge)
        return found

    def _found(self, edges: list[Edge], start: str, depth: int) -> tuple[str, ...]:
        if self.asks == "parents":
            return tuple(one for one, other in edges if other == start)
        following: dict[str, list[str]] = {}
        for one, other in edges:
            following.setdefault(one, []).append(other)
        met, layer = {start: None}, [start]
        for _ in range(depth):
            layer = [x for x in dict.fromkeys(y for node in layer for y in following.get(node, ())) if x not in met]
            met.update(dict.fromkeys(layer))
        return tuple(layer)

    def solve(self, prompt: str) -> str:
        """See Questions."""
        context, _, question = prompt.rpartition("\nWhich nodes")
        depth = re.search(r"exactly (\d+) step", question)
        return ", ".join(self._found(_EDGE.findall(context), _NODE.findall(question)[0], int(depth[1]) if depth else 0))

    def score(self, answer: str, query: Query) -> float:
        """See Questions: the F1 of the set of nodes on the line of the answer."""
        return scores.set_f1(_NODE.findall(scores.after(answer, PREFIX)), query.gold)

    def chance(self, query: Query) -> float:
        """See Questions: no node of the answer is known without the graph."""
        return 0.0


def _nodes(rng: np.random.Generator, used: set[str]) -> Iterator[str]:
    """Yields names of 10 hexadecimal digits, each once and none of those used, without end."""
    used = set(used)
    while True:
        for number in rng.integers(0, 1 << 40, 64).tolist():
            name = f"{number:010x}"
            if name not in used:
                used.add(name)
                yield name
