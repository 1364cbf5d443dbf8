"""How a run looks while it goes: a bar on a terminal, a bar in a notebook, plain lines anywhere else.

    with progress(total_tokens) as bar:
        bar.stage(0, stages=3, seq_len=512)
        bar.update(step, tokens, loss=..., tokens_per_s=...)
        bar.note("saved step 100")

The total is in tokens because later stages are slower per step. The time left is the tokens left at the mean speed of
this start in this stage, of its last WINDOW_S at most, with whatever else took time there: saves, held-out losses.
"""

import collections
import sys
import time

WINDOW_S = 300.0  # seconds that the time left looks back: the speed of a single step is noise


def progress(total_tokens: int, stream=None, every_seconds: float = 0.0, kind: str = "auto"):
    """A progress display for `total_tokens`, as a context manager: leaving it, also by an exception, restores the
    terminal. A process that ends by os._exit calls `close()` first.

    kind           a name in KINDS; auto looks at `stream` (stdout by default)
    every_seconds  plain lines: at most one per this many seconds; the first and the last always appear
    """
    stream = stream or sys.stdout
    if kind == "auto":
        kind = "notebook" if "ipykernel" in sys.modules else "terminal" if stream.isatty() else "plain"
    return KINDS[kind](total_tokens, stream, every_seconds)


def duration(seconds: float) -> str:
    """'42 s', '3:07', '2:05:09'."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}" if minutes else f"{s} s"


class Plain:
    """One line per update. The base of the other two: they draw the same fields."""

    def __init__(self, total_tokens: int, stream, every_seconds: float):
        self.total, self.stream, self.every = total_tokens, stream, every_seconds
        self.tokens, self.where = 0, ""
        self._printed, self._pending = None, None
        self._seen = collections.deque()  # (time, tokens) of updates in the window, and of one before it

    def stage(self, index: int, stages: int, seq_len: int) -> None:
        """A stage begins; index counts from 0. Its first update always shows."""
        self.where = f"stage {index + 1}/{stages} ({seq_len:,})"
        self._printed = None
        self._seen.clear()

    def update(
        self, step: int, tokens: int, loss: float, tokens_per_s: float, held_out_loss: float | None = None
    ) -> None:
        """Shows a step. `tokens` is the number seen since the beginning of the run, resumed parts included;
        tokens_per_s: the speed since the update before."""
        self.tokens = tokens
        speed = self._speed(tokens, tokens_per_s)
        left = f"{duration((self.total - tokens) / speed)} left" if speed > 0 else ""
        measured = "" if held_out_loss is None else f"held out {held_out_loss:.4f}"
        losses = [f"loss {loss:.4f}", measured]
        self._draw([f"step {step:,}", self.where, *losses, f"{tokens_per_s:,.0f} tokens/s", left])

    def _speed(self, tokens: int, latest: float) -> float:
        """Tokens per second since the first update in the window; the latest speed where that is this one."""
        now = time.monotonic()
        self._seen.append((now, tokens))
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return (tokens - before) / (now - then) if now > then else latest

    def note(self, line: str) -> None:
        """A line of its own, above the bar where there is one."""
        print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Shows the last update if it was held back, and restores the terminal. More than once is fine."""
        if self._pending:
            self._print(self._pending)

    def _draw(self, fields: list[str]) -> None:
        line = " | ".join(filter(None, fields))
        if self._printed is None or time.monotonic() - self._printed >= self.every:
            self._print(line)
        else:
            self._pending = line

    def _print(self, line: str) -> None:
        self._printed, self._pending = time.monotonic(), None
        print(line, file=self.stream, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Terminal(Plain):
    """A bar that stays at the bottom; whatever else is printed scrolls above it."""

    def __init__(self, total_tokens: int, stream, every_seconds: float):
        super().__init__(total_tokens, stream, every_seconds)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.fields[head]}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[tail]}", markup=False),
            expand=True,
            console=Console(file=stream),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=total_tokens, head="starting", tail="")
        self._bar.start()

    def stage(self, index: int, stages: int, seq_len: int) -> None:
        super().stage(index, stages, seq_len)
        self._bar.update(self._task, head=self.where, refresh=True)

    def note(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()

    def _draw(self, fields: list[str]) -> None:
        step, where, *tail = fields
        self._bar.update(
            self._task,
            completed=self.tokens,
            head=f"{where} · {step}",
            tail=" · ".join(filter(None, tail)),
            refresh=True,
        )


class Notebook(Plain):
    """A tqdm bar, which notebooks draw as a widget."""

    def __init__(self, total_tokens: int, stream, every_seconds: float):
        super().__init__(total_tokens, stream, every_seconds)
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total_tokens, bar_format="{desc} {bar} {postfix}")

    def note(self, line: str) -> None:
        self._bar.write(line)

    def close(self) -> None:
        self._bar.close()

    def _draw(self, fields: list[str]) -> None:
        step, where, *tail = fields
        self._bar.set_description_str(f"{where} · {step}", refresh=False)
        self._bar.set_postfix_str(" · ".join(filter(None, tail)), refresh=False)
        self._bar.n = self.tokens
        self._bar.refresh()


KINDS = {"terminal": Terminal, "notebook": Notebook, "plain": Plain}
