"""The answers of a model to the requests of lm-evaluation-harness, in their order. Free of lm_eval."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

from experiments.evaluation_harness import requests, scoring
from experiments.evaluation_harness.requests import Reader, Wanted
from experiments.settings.console import phase
from longctx.data.chat import ChatTemplate, Message
from longctx.evals.predictor import Model


@dataclasses.dataclass
class Answers:
    """A model that is asked.

    Attributes:
      model, reader: what reads, and how requests become its tokens.
      ends: the tokens that end an answer.
      template: of its conversations; None where --chat is not asked for.
      cut: requests that lost their beginning.
    """

    model: Model
    reader: Reader
    ends: tuple[int, ...]
    template: ChatTemplate | None = None
    cut: int = 0

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation behind its context, in nats, and whether greedy decoding writes it.

        pairs: (context, continuation).
        """
        found = [requests.continued(self.reader, *pair) for pair in pairs]
        self.cut += sum(cut for _, cut in found)
        return [(one.log, one.greedy) for one in self._score([piece for piece, _ in found])]

    def whole(self, texts: Sequence[str]) -> list[float]:
        """The log-likelihood of all of each text, in nats; in windows where it is long, see requests.windows."""
        windows = [requests.windows(self.reader, text) for text in texts]
        scores = iter(self._score([piece for pieces in windows for piece in pieces]))
        return [sum(next(scores).log for _ in pieces) for pieces in windows]

    def written(self, asked: Sequence[tuple[str, Mapping]]) -> list[str]:
        """The text that greedy decoding writes behind each context.

        asked: (context, settings of the generation).
        """
        found = [requests.wanted(self.reader, *one) for one in asked]
        self.cut += sum(cut for _, cut in found)
        alike, texts = defaultdict(list), {}
        for i, (want, _) in enumerate(found):
            alike[scoring.row_size(len(want.prompt) + want.count, self.reader.length), want.count].append(i)
        with phase(f"writing {len(found):,} answers"):
            for (size, count), group in sorted(alike.items(), reverse=True):
                group.sort(key=lambda i: -len(found[i][0].prompt))  # like with like: a batch reads as its longest
                texts |= dict(zip(group, self._write([found[i][0] for i in group], count, size), strict=True))
        return [texts[i] for i in range(len(found))]

    def conversation(self, messages: Sequence[Message], ask: bool) -> str:
        """The conversation as the model's template writes it. ask: its turn begins; else it goes on with the last
        message, whose end is the end of the text."""
        assert self.template is not None, "A conversation needs a template."
        text = self.template.render(messages, ask)
        if ask:
            return text
        last = messages[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def _score(self, pieces: Sequence[requests.Piece]) -> list[scoring.Likelihood]:
        with phase(f"reading {sum(len(piece.inputs) for piece in pieces):,} tokens of {len(pieces):,} texts"):
            return scoring.score(self.model, pieces, self.reader.length, self.reader.tokenizer.pad)

    def _write(self, group: Sequence[Wanted], count: int, size: int) -> list[str]:
        """The answers to requests of one row size and one count of tokens."""

        def enough(i: int, tokens: list[int]) -> bool:
            if not group[i].until:
                return False
            longest = max(len(stop.encode()) for stop in group[i].until)
            tail = self.reader.tokenizer.decode(tokens[-longest - 1 :])
            return any(stop in tail for stop in group[i].until)

        tokens = self.model.generate([one.prompt for one in group], count, size, self.ends, enough)
        return [
            requests.answer(self.reader, one, row.tolist(), self.ends) for one, row in zip(group, tokens, strict=True)
        ]
