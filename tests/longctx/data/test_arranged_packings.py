"""Packings that put documents of a row in an order, or in parts: what stands next to what, and who sees whom."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.data import rows, sources
from longctx.data.document import Document
from longctx.data.packing import (
    concat_and_cut,
    in_context,
    interleave,
    nextlong,
    repository,
    similarity,
    untie_the_knots,
)
from longctx.data.packing.api import PACKINGS
from longctx.data.packing.packing import cut
from longctx.data.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()
JOINED = {"in_context", "interleave", "nextlong", "untie_the_knots"}  # a row is one document: attention crosses
lengths_and_capacity = st.tuples(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 40))


def topics(count=120, topics=6, words=60, seed=0) -> list[Document]:
    """Documents of words that only their topic (number modulo `topics`) has."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    vocabulary = [[bytes(rng.choice(letters, 7)) for _ in range(40)] for _ in range(topics)]
    text = lambda i: b" ".join(vocabulary[i % topics][j] for j in rng.integers(0, 40, words))
    return [Document(f"{i}.txt", text(i)) for i in range(count)]


def packed(name: str, documents, capacity: int, seed=0):
    table = rows.tokenize(documents, TOKENIZER)
    return table, PACKINGS[name](table, capacity, np.random.default_rng(seed))


def rows_of(packing) -> np.ndarray:
    return np.repeat(np.arange(packing.rows), np.diff(packing.row_start))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.data())
def test_pieces_that_are_cut_are_whole_together(lengths, data):
    total = sum(lengths)
    at = sorted([0, *data.draw(st.lists(st.integers(0, total - 1), max_size=9))])
    places = [(i, j) for i, length in enumerate(lengths) for j in range(length)]
    parts = list(zip(*(x.tolist() for x in cut(np.array(lengths), np.array(at))), strict=True))
    assert [(i, offset + j) for i, offset, length, _ in parts for j in range(length)] == places
    behind = [part for *_, length, part in parts for _ in range(length)]
    assert behind == [sum(place <= token for place in at) - 1 for token in range(total)]
    assert len(parts) == len({*at, *np.cumsum([0, *lengths[:-1]]).tolist()}), "cut nowhere else"


def test_features_are_cosines_and_whole():
    documents = [*topics(), Document("a", b""), Document("twin", topics()[0].text)]
    table = rows.tokenize(documents, TOKENIZER)
    made = similarity.features(table.ids, table.starts, table.inputs)
    assert (made == np.rint(made)).all() and made.dtype == np.float32
    assert (made[-1] == made[0]).all() and made[0] @ made[0] == pytest.approx(similarity.SCALE**2, rel=0.2)
    cosines, topic = made[:120] @ made[:120].T / similarity.SCALE**2, np.arange(120) % 6
    same = topic[:, None] == topic
    assert cosines[same & ~np.eye(120, dtype=bool)].mean() > 0.3
    assert abs(cosines[~same].mean()) < 0.1


def test_pieces_that_share_nothing_are_like_nothing():
    made = similarity.features(np.arange(60, dtype=np.uint16), np.arange(0, 60, 20), np.full(3, 20))
    assert not (made @ made.T).any()


def test_blocks_of_pieces_change_no_feature(monkeypatch):
    table = rows.tokenize(topics(), TOKENIZER)
    whole = similarity.features(table.ids, table.starts, table.inputs)
    monkeypatch.setattr(similarity, "BLOCK_TOKENS", 1000)
    np.testing.assert_array_equal(similarity.features(table.ids, table.starts, table.inputs), whole)


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 5))
def test_the_nearest_are_those_of_all_sorted(count, k, seed):
    rng = np.random.default_rng(seed)
    made, owner = rng.integers(-3, 4, (count, 2)).astype(np.float32), rng.integers(0, 4, count)
    found, alike = similarity.nearest(made, k, owner)
    for i in range(count):
        products = {j: int(made[i] @ made[j]) for j in range(count) if owner[j] != owner[i]}
        best = sorted((j for j in products if products[j] > 0), key=lambda j: (-products[j], j))[:k]
        assert found[i][found[i] >= 0].tolist() == best
        assert alike[i][found[i] >= 0].tolist() == [products[j] for j in best]


def test_most_pieces_fit_the_numbers_they_are_compared_by():
    longest = similarity.SCALE + np.sqrt(2**similarity.DIMENSIONS) / 2  # each number is rounded by at most a half
    assert longest**2 < 2**24, "float32 adds such whole numbers exactly"
    assert (longest**2 + 1) * similarity.MOST < 2**31 and similarity.MOST << similarity.BUCKETS < 2**31


def test_documents_of_one_topic_follow_one_another():
    documents = topics()
    table, packing = packed("in_context", documents, 1024)
    assert packing.left_out == 0
    order = packing.document[packing.start == 0]
    assert (np.diff(order % 6) == 0).mean() > 0.9, "by chance a sixth of them"
    made = similarity.features(table.ids, table.starts, table.inputs)
    likeness = lambda order: (made[order[1:]] * made[order[:-1]]).sum(1).mean() / similarity.SCALE**2
    assert likeness(order) > 4 * likeness(np.random.default_rng(0).permutation(len(documents)))


def test_a_walk_begins_where_neighbours_are_fewest_and_goes_to_the_most_similar():
    found = np.array([[1, 2], [0, 2], [1, 0], [2, -1]])
    alike = np.array([[5, 3], [5, 4], [4, 3], [2, 0]])
    neighbours, degrees = in_context._graph(found, alike)
    assert [one.tolist() for one in neighbours] == [[1, 2], [0, 2], [1, 0, 3], [2]] and degrees.tolist() == [2, 2, 3, 1]
    assert in_context.path(neighbours, degrees, lambda one, other: False) == [3, 2, 1, 0]
    assert in_context.path(neighbours, degrees, lambda one, other: {one, other} == {1, 2}) == [3, 2, 0]
    apart = np.array([[1], [0], [-1]]), np.array([[5], [5], [0]])
    assert in_context.path(*in_context._graph(*apart), lambda one, other: False) == [2, 0, 1], "and starts again"


def test_near_duplicates_are_left_out_and_counted():
    documents = topics()
    nearly = documents[3].text[:300] + b"!" + documents[3].text[300:]
    licence = (
        b"this text may be read by everyone who can read it, and by nobody else, at any time of the day or night. "
    )
    others = [Document(f"{one.name}.licensed", licence + one.text) for one in topics(6, seed=1)]
    table, packing = packed("in_context", [*documents, Document("twin", nearly), *others], 1024)
    gone = set(range(len(table.inputs))) - set(packing.document.tolist())
    assert gone in ({3}, {120}), "one of the two; a head that many share is not enough"
    assert packing.left_out == table.inputs[list(gone)].sum()


def test_parts_of_many_documents_are_walked_alone(monkeypatch):
    monkeypatch.setattr(similarity, "MOST", 25)
    table, packing = packed("in_context", topics(), 1024)
    assert sorted(packing.document[packing.start == 0].tolist()) == list(range(120)) and packing.left_out == 0
    table, packing = packed("nextlong", topics(), 1024)
    assert packing.length.sum() == table.inputs.sum()


@given(lengths_and_capacity, st.sampled_from([interleave, untie_the_knots]))
def test_parts_keep_the_order_of_their_document_and_rows_hold_what_is_cut(case, way):
    lengths, capacity = np.array(case[0], np.int64), case[1]
    whole = concat_and_cut.pack(lengths, capacity, np.random.default_rng(0))
    parts = way.pack(lengths, capacity, np.random.default_rng(0))
    for row in range(whole.rows):
        a, b = (slice(p.row_start[row], p.row_start[row + 1]) for p in (whole, parts))
        for document in whole.document[a]:
            mine = parts.document[b] == document
            start, length = parts.start[b][mine], parts.length[b][mine]
            assert (start[1:] == start[:-1] + length[:-1]).all(), "one goes on where the one before ends"
            assert 1 <= len(start) <= max(interleave.PARTS, untie_the_knots.MOST_PARTS)
            assert start[0] == whole.start[a][whole.document[a] == document][0]
        if way is untie_the_knots:
            assert parts.document[b][-1] == whole.document[a][-1], "the last part stays last"
        else:
            turns = [list(parts.document[b][:i]).count(document) for i, document in enumerate(parts.document[b])]
            assert turns == sorted(turns), "every first part, then every second one, ..."


def test_turns_are_equally_long():
    parts = interleave.pack(np.array([8, 8, 3]), 19, np.random.default_rng(0))
    in_turn = lambda d: parts.length[parts.document == d].tolist()
    assert in_turn(0) == in_turn(1) == [2, 2, 2, 2] and in_turn(2) == [1, 1, 1]


def test_knots_are_tied_at_places_from_all_of_a_document():
    parts = untie_the_knots.pack(np.full(4000, 50), 200, np.random.default_rng(0))
    pieces = np.bincount(np.unique(np.stack([rows_of(parts), parts.document]), axis=1)[1])
    assert pieces.max() == 1, "no document is cut by the end of a row here"
    counts = np.bincount(np.bincount(parts.document), minlength=5)[1:]
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.04)
    assert abs(np.bincount(parts.start[parts.start > 0], minlength=50)[1:] / (1.5 * 4000 / 50) - 1).max() < 0.4
    together = (parts.document[1:] == parts.document[:-1]) & (rows_of(parts)[1:] == rows_of(parts)[:-1])
    assert together.sum() / (parts.start > 0).sum() < 0.4, "other documents stand between"


def test_chunks_are_followed_by_the_most_similar_ones_of_others():
    documents = topics(180, 6, 60)
    table, packing = packed("nextlong", documents, 4096)
    assert packing.length.sum() == table.inputs.sum() and packing.rows == -(-table.inputs.sum() // 4096)
    inside = np.diff(rows_of(packing)) == 0
    topic, document = packing.document % 6, packing.document
    others = inside & (document[1:] != document[:-1])
    assert others.mean() > 0.8 and (topic[1:] == topic[:-1])[others].mean() > 0.6, "by chance a sixth of them"


@pytest.mark.parametrize(
    "begun, capacity, order",
    [
        (0, 8, [0, 1, 2, 3, 4]),  # the document fills its row
        (0, 16, [0, 3, 1, 2, 4]),  # room for one behind each chunk
        (0, 12, [0, 3, 1, 2, 4]),  # room for one in all
        (4, 12, [0, 1, 2, 3, 4]),  # none, where so much of the row is filled
        (2, 13, [0, 1, 2, 3, 4]),  # room for less than a chunk
        (0, 400, [0, 3, 2, 1, 4]),  # room for more than there are
    ],
)
def test_negatives_fill_the_row_that_a_document_ends_in(begun, capacity, order):
    neighbours = np.array([[3, 2], [3, 2], [1, 0], [0, 1], [-1, -1]])
    document, length = np.array([0, 0, 1, 1, 2]), np.full(5, 4)
    assert nextlong.extended(document, length, neighbours, begun, capacity).tolist() == order


FILES = {
    "one/zebra.py": b"import os\nfrom one.base import Thing\n",
    "one/base.py": b"from . import tools\n",
    "one/tools.py": b"from .zebra import (late,\n  later)\n",  # a circle
    "one/README.md": b"what it is",
    "one/apart.py": b"import two.first as other, one.zebra\n",
    "one/inner/last.py": b"    from ..inner.first import x\n",
    "one/inner/first.py": b"print 'an older Python'\n",
    "one/__init__.py": b"",
    "two/first.py": b"import base\n",
    "two/README": b"another",
    "alone.py": b"import first",
}


def test_files_stand_behind_what_they_import():
    names = list(FILES)
    table, packing = packed("repository", [Document(name, text) for name, text in FILES.items()], 1000)
    assert packing.rows == 1 and packing.left_out == 0
    of = lambda first: [names[d] for d in packing.document if names[d].startswith(first)]
    assert (
        of("one/")
        == [
            "one/README.md",
            "one/__init__.py",
            "one/tools.py",
            "one/base.py",
            "one/zebra.py",
            "one/apart.py",
            "one/inner/first.py",
            "one/inner/last.py",
        ]
        or of("one/") == []
    )
    assert of("two/") == ["two/README", "two/first.py"]


@pytest.mark.parametrize(
    "statement, found",
    [
        (b"import r.a, top as t, other.b  # r.c", ["r/a", "top"]),
        (b"from r import (\n    a,  # the first\n    p as d,\n)\nx = 1", ["r", "r/a", "r/p"]),
        (b"from . import c", ["r/p", "r/p/c"]),
        (b"from .. import a, c", ["r", "r/a"]),
        (b"from .a import x", []),
        (b"    from ..a import x", ["r/a"]),
        (b"import c", ["r/p/c"]),
        (b"what is\nimport or not\nimportant = c", []),
        (b"\xff\xfe from here\nfrom r.a import \xff", ["r/a"]),
    ],
)
def test_what_a_statement_imports(statement, found):
    files = {"r", "r/a", "r/p", "r/p/c", "r/p/q/a", "top"}
    assert repository.imported("r/p/x.py", statement, files) == found


def test_files_without_imports_stand_folder_by_folder():
    names = ["r/a/z.txt", "r/a-b/y.txt", "r/z.txt", "r/a/b/x.txt", "r/a/README.txt", "r/readme"]
    order = [names[i] for i in repository.in_order(names, [b""] * len(names))]
    assert order == ["r/readme", "r/z.txt", "r/a/README.txt", "r/a/z.txt", "r/a/b/x.txt", "r/a-b/y.txt"]


def test_a_long_chain_of_imports_is_followed():
    names = [f"r/f{i:05}.py" for i in range(3000)]
    texts = [f"import f{i + 1:05}".encode() for i in range(3000)]
    assert repository.in_order(names, texts) == list(reversed(range(3000)))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=40), st.integers(1, 60))
def test_a_group_holds_files_of_one_repository_and_small_ones_whole(files, capacity):
    documents = [Document(f"{repo}/{i}.py", bytes([i]) * n) for i, (repo, n) in enumerate(files)]
    table, packing = packed("repository", documents, capacity)
    repos = np.array([repo for repo, _ in files])
    groups = {}
    for group, document, length in zip(packing.group, packing.document, packing.length, strict=True):
        groups.setdefault(int(group), []).append((repos[document], int(length)))
    assert all(len({repo for repo, _ in pieces}) == 1 for pieces in groups.values())
    for repo in set(repos.tolist()):
        tokens = int(table.inputs[repos == repo].sum())
        sizes = sorted(sum(n for _, n in pieces) for pieces in groups.values() if pieces[0][0] == repo)
        full, rest = divmod(tokens, capacity)
        assert sizes == sorted([capacity] * full + [rest] * (rest > 0))


def test_without_names_and_texts_documents_are_repositories_of_their_own():
    table = rows.tokenize(topics(9), TOKENIZER)
    bare = rows.TokenTable(table.ids, table.starts, table.inputs)
    packing, whole = (PACKINGS[name](bare, 700, np.random.default_rng(0)) for name in ("repository", "best_fit"))
    for field in ("document", "start", "length", "column", "row_start"):
        np.testing.assert_array_equal(getattr(packing, field), getattr(whole, field))


@pytest.mark.parametrize("name", PACKINGS)
def test_who_sees_whom(name):
    """Pieces of one row see each other only where that is what a packing is for."""
    documents = [Document(f"{i % 4}/{one.name}", one.text[: 100 + 9 * i]) for i, one in enumerate(topics(30))]
    _, packing = packed(name, documents, 2048)
    shared = {}
    for row, group, document in zip(rows_of(packing), packing.group, packing.document, strict=True):
        shared.setdefault((row, group), set()).add(document)
    if name in JOINED:
        assert len(shared) == packing.rows and any(len(seen) > 1 for seen in shared.values())
    elif name == "repository":
        assert all(len({document % 4 for document in seen}) == 1 for seen in shared.values())
    else:
        assert len(shared) == len(packing.document)


@pytest.mark.parametrize("name", sorted(PACKINGS.keys() - JOINED))
def test_other_tokens_of_a_document_change_no_other_one(name):
    documents = [Document(f"{i % 4}/{one.name}", one.text[: 300 + i]) for i, one in enumerate(topics(30))]
    changed = [*documents]
    changed[5] = Document(documents[5].name, documents[5].text[::-1])
    batches = []
    for some in (documents, changed):
        table, packing = packed(name, some, 1024)
        batches.append(rows.PackedRows(table, packing, TOKENIZER.pad).gather(np.arange(packing.rows)))
    for field in ("segments", "positions", "weights"):
        np.testing.assert_array_equal(batches[0][field], batches[1][field])
    assert 0 < (batches[0]["tokens"] != batches[1]["tokens"]).sum() <= len(documents[5].text)


def test_the_library_in_an_order():
    """A module and its tests stand side by side, and few files are nearly others."""
    found = sources.load(sources.DataConfig()).train
    table = rows.tokenize(found, TOKENIZER)
    order = in_context.walk(table, np.arange(len(found)))
    stem = lambda name: name.rpartition("/")[2].removesuffix(".py").removeprefix("test_")
    beside = sum(stem(found[a].name) == stem(found[b].name) for a, b in zip(order, order[1:], strict=False))
    assert beside > 60, "of documents in a drawn order, one or two"
    assert len(found) - len(order) < 40
