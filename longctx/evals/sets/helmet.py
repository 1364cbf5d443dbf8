"""HELMET: the parts whose data it ships as files of one form: JSON pairs, RULER, and documents from KILT."""

from collections.abc import Callable

from longctx.evals.questions.question import Sample
from longctx.evals.sets import overlap
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.published import Set, Texts, always, listed, one, single

SHOTS = 2  # examples before the question about a JSON object
DOCUMENT = "Document (Title: {}): {}"
QUESTION = "\n\nQuestion about the documents above: {}\nAnswer in as few words as you can."
MAGIC = "\n\nWhich special magic {} are given for {} in the text above? Name all of them."
ASSIGNED = "\n\nWhich variables of the text above have the value {}?"
COMMON = "\n\nWhich 10 words does the list above have most often?"
FREQUENT = "\n\nWhich three coded words, dots aside, are the most frequent above?"
BUDGETS = {"niah_mk_2": 50, "niah_multikey_2": 50, "niah_mv": 50, "niah_multivalue": 50, "niah": 100, "qa": 50, "": 100}


def tasks(folder: Folder) -> list[Texts]:
    """A task for each file that HELMET asks about; files of examples alone are none."""
    score = overlap.best(overlap.holds)
    pairs = folder.tables(r"json_kv/test_(k\d+)_dep\d+\.jsonl", "context", "question", "answer", "demos", "num_kvs")
    found = [Texts(f"json_kv {name}", rows, read_pairs, score, 100) for name, rows in pairs.items()]
    pattern = r"kilt/(nq|triviaqa|hotpotqa|popqa)[-\w]*_(k\d+)_dep\d+\.jsonl"
    for name, rows in folder.tables(pattern, "question", "answers", "ctxs").items():
        if not name.endswith(" k3"):  # files of examples
            found.append(Texts(f"kilt {name}", rows, read_documents, score, 20))
    for name, rows in folder.tables(r"ruler/(\w+)/validation_(\d+)\.jsonl", "context", without=("input",)).items():
        kind = name.split()[0]
        budget = next(tokens for start, tokens in BUDGETS.items() if kind.startswith(start))
        way, whole = (score, always) if kind.startswith("qa") else (overlap.share_inside, single)
        found.append(Texts(f"ruler {name}", rows, _reader(kind), way, budget, whole))
    return found


def read_pairs(row: dict) -> Sample:
    """A JSON object and a key of it, behind two examples."""
    shots = "".join(f"Key: {key}\nCorresponding value: {value}\n\n" for key, value in row["demos"][:SHOTS])
    question = f"\n\nGive the value of the key in the JSON object above.\n\n{shots}Key: {row['question']}"
    return one(row["context"], question, "\nCorresponding value:", listed(row["answer"]))


def read_documents(row: dict) -> Sample:
    """Documents and a question about them."""
    documents = [DOCUMENT.format(each["title"], each["text"]) for each in row["ctxs"]]
    return one("\n\n".join(documents), QUESTION.format(row["question"]), "\nAnswer:", listed(row["answers"]))


def _reader(kind: str) -> Callable[[dict], Sample]:
    """A function that reads a record of RULER in HELMET's form, which has the parts of a prompt."""

    def read(row: dict) -> Sample:
        query = row.get("query", row.get("question", ""))
        if kind.startswith("niah"):
            question = MAGIC.format(row["type_needle_v"], query)
        elif kind.startswith("vt"):
            question = ASSIGNED.format(query)
        else:
            question = {"cwe": COMMON, "fwe": FREQUENT}.get(kind[:3], QUESTION.format(query))
        gold = listed(row["answer"] if "answer" in row else row["outputs"])
        return one((row.get("example") or "") + row["context"], question, "\nAnswer:", gold)

    return read


HELMET = Set(
    "HELMET",
    "HELMET (arXiv 2410.02694) with short prompts of our own: json_kv, ruler and kilt, the last without examples; "
    "reranking, citations, ICL and what is scored by a judge are left out, InfiniteBench is a set of its own",
    "json_kv/test_k105_dep6.jsonl",
    tasks,
)
