"""What was found where text was looked for and is not in it, in words. Free of jax and grain."""

import dataclasses
from collections import Counter

SHOWN = 3  # bad documents that a note names
KINDS = 8  # extensions that a note names


@dataclasses.dataclass
class LeftOut:
    """What was found and is not in the corpus. As a str: all of it in one line, "" for nothing.

    files: by extension; folders: by name; names: other ones of files that are in it; empty, bad: documents; first_bad:
    a sentence about each of the first bad ones.
    """

    files: Counter[str] = dataclasses.field(default_factory=Counter)
    folders: Counter[str] = dataclasses.field(default_factory=Counter)
    names: int = 0
    empty: int = 0
    bad: int = 0
    first_bad: list[str] = dataclasses.field(default_factory=list)

    def add_bad(self, sentence: str) -> None:
        """One more bad document."""
        self.bad += 1
        self.first_bad += [sentence] if self.bad <= SHOWN else []

    def add(self, other: "LeftOut") -> None:
        """What was left out elsewhere, too."""
        self.files += other.files
        self.folders += other.folders
        self.names, self.empty, self.bad = self.names + other.names, self.empty + other.empty, self.bad + other.bad
        self.first_bad = (self.first_bad + other.first_bad)[:SHOWN]

    def __str__(self):
        parts = [
            counted(self.files, "file"),
            counted(self.folders, "folder"),
            plural(self.names, "other name") + " of files that are read" if self.names else "",
            plural(self.empty, "empty document") if self.empty else "",
        ]
        if self.bad:
            more = f"; and {self.bad - SHOWN:,} more" if self.bad > SHOWN else ""
            parts.append(f"{plural(self.bad, 'bad document')} ({'; '.join(self.first_bad)}{more})")
        return ", ".join(filter(None, parts))


def counted(counts: Counter[str], what: str) -> str:
    """For example "12 files (8 .png, 4 .json)", the most frequent first."""
    common = [f"{count:,} {name}" for name, count in counts.most_common(KINDS)]
    more = [f"{len(counts) - KINDS} other kinds"] if len(counts) > KINDS else []
    return f"{plural(counts.total(), what)} ({', '.join(common + more)})" if counts else ""


def plural(count: int, what: str) -> str:
    """For example "1 file", "1,200 files"."""
    return f"{count:,} {what}" + ("s" if count != 1 else "")
