"""Conversations and answers in records: what of their tokens counts in the loss, and what is refused."""

import json

import numpy as np
import pytest

from longctx.config import DataConfig
from longctx.data import chat, loss_weights, rows, sources, tokenizers
from longctx.data.document import Document
from longctx.data.packing.best_fit import pack
from longctx.data.records import api as records
from longctx.data.records.record import Bad
from longctx.errors import UserError
from tests.longctx.data import tiny_tokenizers

CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}"""
# earlier answers lose their thinking, and a macro writes what is not the assistant's
TAGGED = """{% macro other(message) %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endmacro %}
{% for message in messages %}
{% if message.role == 'assistant' %}
<|im_start|>assistant
{% generation %}
{{ message.content.split('</think>')[-1] if not loop.last else message.content }}<|im_end|>{% endgeneration %}

{% else %}
{{ other(message) }}{% endif %}
{% endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""
UNTAGGED = TAGGED.replace("{% generation %}\n", "").replace("{% endgeneration %}\n", "")
SPECIAL = "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "<s>", "</s>"
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi \u00fc <|nothing|>\n"},
    {"role": "assistant", "content": "Hello \u65e5\u672c \U0001f600!"},
    {"role": "user", "content": "12 and 12?"},
    {"role": "tool", "content": "24"},
    {"role": "assistant", "content": "24,\n\n or so"},
    {"role": "user", "content": "Thanks"},
]
ANSWERS = [TURNS[2]["content"], TURNS[5]["content"]]


def folder(path, template: str | None, eos="</s>") -> str:
    more = {} if template is None else {"chat_template": template}
    config = {"bos_token": "<s>", "eos_token": eos} | more
    return tiny_tokenizers.write(path, tiny_tokenizers.byte_level(*SPECIAL), tokenizer_config=config)


def content(record, form="messages", tokenizer="bytes"):
    return records.form_of(DataConfig(records=form, tokenizer=tokenizer)).content(record)


def counted(record, form="messages", tokenizer="bytes") -> list[str]:
    """The text of each run of tokens that count, with the names of special tokens."""
    found, how = content(record, form, tokenizer), tokenizers.load(tokenizer)
    table = rows.tokenize([Document("a", found.text, asked=found.asked, special=found.special)], how)
    edges = np.flatnonzero(np.diff(table.counts, prepend=False, append=False))
    runs = [table.ids[first:end] for first, end in zip(edges[::2], edges[1::2], strict=True)]
    return [b"".join(how.spelling(int(token)) for token in run).decode() for run in runs]


@pytest.mark.parametrize(
    "template, eos, end",
    [
        (CHATML, "</s>", "<|im_end|>"),
        (CHATML, "<|im_end|>", "<|im_end|>"),
        (LLAMA3, "</s>", "<|eot|>"),
        (LLAMA3, "<|eot|>", "<|eot|>"),
        (TAGGED, "</s>", "<|im_end|>"),
    ],
    ids=["chatml", "chatml, its end is eos", "llama3", "llama3, its end is eos", "generation tags"],
)
@pytest.mark.parametrize("turns", [3, 6, 7])
def test_answers_and_the_tokens_that_end_them_count(tmp_path, template, eos, end, turns):
    where = folder(tmp_path, template, eos)
    want = [answer + end for answer in ANSWERS[: 1 if turns == 3 else 2]]
    assert counted({"messages": TURNS[:turns]}, tokenizer=where) == want
    assert counted({"messages": TURNS[1:turns]}, tokenizer=where) == want  # without a system prompt


def test_special_tokens_of_the_template_are_tokens_and_none_is_doubled(tmp_path):
    where = folder(tmp_path, LLAMA3, "<|eot|>")
    found, how = content({"messages": TURNS[:3]}, tokenizer=where), tokenizers.load(where)
    table = rows.tokenize([Document("a", found.text, asked=found.asked, special=True)], how)
    ids = table.ids.tolist()
    assert ids[0] == how.bos and ids.count(how.bos) == 1
    assert ids[-1] == how.eos and ids.count(how.eos) == 3  # one for each message
    assert b"".join(how.spelling(token) for token in ids) == found.text


def test_sharegpt_is_the_same_conversation(tmp_path):
    where, names = folder(tmp_path, CHATML), {"user": "human", "assistant": "gpt"}
    other = [{"from": names.get(turn["role"], turn["role"]), "value": turn["content"]} for turn in TURNS]
    assert content({"conversations": other}, tokenizer=where) == content({"messages": TURNS}, tokenizer=where)


def test_bytes_have_a_form_of_their_own():
    found = content({"messages": TURNS[1:6]})
    assert found.text.decode().startswith("user: Hi \u00fc <|nothing|>\n\n\nassistant: Hello ")
    assert counted({"messages": TURNS}) == [answer + "\n\n" for answer in ANSWERS]
    assert counted({"messages": TURNS[:3]}) == [ANSWERS[0] + "\n\n<eos>"]


def test_what_else_of_text_a_message_has_is_the_templates(tmp_path):
    template = "{% for m in messages %}{{ m.role }}:{{ m.thinking }}{{ m.content }}</s>{% endfor %}"
    template += "{{ 'assistant:' if add_generation_prompt }}"
    turns = [TURNS[1], {"role": "assistant", "content": "b", "thinking": "a", "tool_calls": [], "weight": 1.0}]
    assert counted({"messages": turns}, tokenizer=folder(tmp_path, template)) == ["ab</s>"]


def test_white_space_counts_where_it_is_all_that_ends_an_answer(tmp_path):
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    template += "{{ 'assistant: ' if add_generation_prompt }}"
    assert counted({"messages": TURNS[:3]}, tokenizer=folder(tmp_path, template)) == [ANSWERS[0] + "\n</s>"]


def test_a_template_that_rewrites_earlier_turns_is_named(tmp_path):
    where = folder(tmp_path, UNTAGGED)
    thought = [*TURNS[1:2], {"role": "assistant", "content": "so</think>yes"}, *TURNS[3:6]]
    with pytest.raises(UserError, match=r"tokenizer_config.json writes messages\[1\] in another way") as error:
        content({"messages": thought}, tokenizer=where)
    assert "{% generation %} ... {% endgeneration %}" in str(error.value) and "records='completion'" in str(error.value)
    assert "\n" not in str(error.value)
    assert counted({"messages": thought[:2]}, tokenizer=where) == ["so</think>yes<|im_end|>"]
    tagged = folder(tmp_path / "tagged", TAGGED)
    assert counted({"messages": thought}, tokenizer=tagged) == ["yes<|im_end|>", ANSWERS[1] + "<|im_end|>"]


def test_tags_that_are_written_over_are_named(tmp_path):
    where = folder(tmp_path, "{% set x %}{% generation %}a{% endgeneration %}{% endset %}{{ x | length }}")
    with pytest.raises(UserError, match="json changes, or nests, what stands in its generation tags"):
        content({"messages": TURNS}, tokenizer=where)


def test_a_template_with_tags_renders_without_them(tmp_path):
    template = chat.load(folder(tmp_path, TAGGED))
    assert template.render(TURNS[1:3], ask=False) == chat.load(folder(tmp_path, UNTAGGED)).render(TURNS[1:3], ask=False)
    assert "\ufdd0" not in template.render(TURNS)


def with_message(**message):
    return {"messages": [TURNS[1], message]}


@pytest.mark.parametrize(
    "record, words",
    [
        ({"text": "a"}, "has no 'messages' or 'conversations'"),
        ({"messages": []}, "has no list of messages in 'messages'"),
        ({"messages": "Hi"}, "has no list of messages in 'messages'"),
        ({"messages": ["Hi"]}, "has 'Hi' in messages[0], which is no message"),
        (with_message(role="robot", content="x"), "has role='robot' in messages[1]; known are system, user, "),
        (with_message(role=["user"], content="x"), "has role=['user'] in messages[1]"),
        (with_message(content="x"), "has role=None in messages[1]"),
        ({"conversations": [{"from": "bard", "value": "x"}]}, "has from='bard' in conversations[0]; known are"),
        (with_message(role="assistant"), "has no text in messages[1].content"),
        (with_message(role="assistant", content=[{"type": "text"}]), "has no text in messages[1].content"),
        (with_message(role="assistant", content=" \n"), "has an empty answer in messages[1]"),
        (with_message(role="assistant", content=None, tool_calls=[{}]), "has tool_calls in messages[1]"),
        (with_message(role="assistant", content="\ud83d"), "has \\ud83d in messages[1].content, half of a surrogate"),
        ({"messages": TURNS[:2]}, "has no turn of the assistant"),
    ],
)
def test_records_that_are_no_conversations(record, words):
    with pytest.raises(Bad) as error:
        content(record)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "template, words",
    [
        ("{{ raise_exception('roles must alternate') }}", "is refused: the chat template of .*: roles must alternate"),
        ("{{ messages[0].content.no.thing }}", "is refused: .* has no attribute 'no'"),
        ("x{% generation %}{% endgeneration %}{{ messages[0].content }}", "the messages hold U.FDD0"),
        ("{% for m in messages %}{{ m.role }}{{ m.content[0].text }};{% endfor %}", "'Hello .* leaves out or changes"),
        ("x{% if no %}{% generation %}y{% endgeneration %}{% endif %}", "has no answer between the generation tags"),
    ],
)
def test_a_template_that_refuses_a_record_makes_it_bad(tmp_path, template, words):
    turns = [{"role": "user", "content": "\ufdd0"}, TURNS[2]]
    with pytest.raises(Bad, match=words):
        content({"messages": turns}, tokenizer=folder(tmp_path, template))


def test_a_template_that_is_missing_or_none_is_found_before_the_first_record(tmp_path):
    for template, words in (
        (None, r"data.tokenizer='.*' has no chat template beside it .*data.records='completion' takes finished text"),
        ("a\nb {% if %}", "tokenizer_config.json, line 2: Expected an expression"),
        ("\n\n{% generation %}", "tokenizer_config.json, line 3: Unexpected end of template"),
    ):
        with pytest.raises(UserError, match=words):
            records.form_of(DataConfig(records="messages", tokenizer=folder(tmp_path, template)))
    with pytest.raises(UserError, match="data.records='message' is not known. Did you mean 'messages'"):
        records.form_of(DataConfig(records="message"))


def test_a_tokenizer_json_has_the_template_beside_it(tmp_path):
    assert counted({"messages": TURNS[:3]}, tokenizer=folder(tmp_path, CHATML) + "/tokenizer.json")


def test_completions_count_with_the_end_of_their_document(tmp_path):
    where = folder(tmp_path, None)
    for record, text, answer in (
        ({"prompt": "2 \u00fc + 2 =", "completion": " 4 \u65e5"}, "2 \u00fc + 2 = 4 \u65e5", " 4 \u65e5"),
        ({"prompt": "", "completion": "<|eot|>"}, "<|eot|>", "<|eot|>"),  # as text
        ({"instruction": "Add.", "input": "2 2", "output": "4"}, "Add.\n\n2 2\n\n4", "4"),
        ({"instruction": "Add.", "input": "", "output": "4"}, "Add.\n\n4", "4"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "ab", "b"),
        ({"prompt": "a", "chosen": "b"}, "ab", "b"),
    ):
        form = "preference" if "chosen" in record else "completion"
        for tokenizer, end in (("bytes", "<eos>"), (where, "</s>")):
            found = content(record, form, tokenizer)
            assert found.text.decode() == text and not found.special
            assert counted(record, form, tokenizer) == [answer + end]


def test_of_a_preference_the_last_turn_that_was_chosen_counts(tmp_path):
    where = folder(tmp_path, UNTAGGED)  # also where the template writes earlier turns anew
    end = "<|im_end|>"
    lists = {"prompt": TURNS[1:5], "chosen": TURNS[5:6], "rejected": [{"role": "assistant", "content": "no"}]}
    for record in (lists, {"chosen": TURNS[1:6]}, {"prompt": "unread", "chosen": TURNS[1:6]}):
        assert counted(record, "preference", where) == [ANSWERS[1] + end]
        assert content(record, "preference", where) == content(lists, "preference", where)
    asked = {"prompt": TURNS[1]["content"], "chosen": TURNS[2:3]}
    assert content(asked, "preference", where) == content({"chosen": TURNS[1:3]}, "preference", where)
    assert counted(lists, "preference", folder(tmp_path / "tagged", TAGGED)) == [ANSWERS[1] + end]
    assert counted(lists, "preference") == [ANSWERS[1] + "\n\n<eos>"]


@pytest.mark.parametrize(
    "form, record, words",
    [
        ("completion", {"text": "a"}, "has no text in 'prompt'; the text fields there: 'text'"),
        ("completion", {"prompt": "a", "completion": 3}, "has no text in 'completion'"),
        ("completion", {"prompt": "a", "completion": " "}, "has an empty answer in 'completion'"),
        ("completion", {"instruction": "a", "output": ""}, "has an empty answer in 'output'"),
        ("completion", {"instruction": "a", "input": 3, "output": "b"}, "has no text in 'input'"),
        ("preference", {"chosen": "a"}, "has no text in 'prompt'"),
        ("preference", {"prompt": "a"}, "has no text in 'chosen'"),
        ("preference", {"prompt": "a", "chosen": ""}, "has an empty answer in 'chosen'"),
        ("preference", {"chosen": TURNS[:2]}, "does not end with a turn of the assistant in 'chosen'"),
        ("preference", {"prompt": TURNS[:2], "chosen": []}, "has no list of messages in 'chosen'"),
    ],
)
def test_records_without_an_answer(form, record, words):
    with pytest.raises(Bad) as error:
        content(record, form)
    assert words in str(error.value)


def test_a_file_of_conversations_is_read_and_bad_ones_are_counted(tmp_path):
    path = tmp_path / "chat.jsonl"
    good = [{"messages": TURNS[:3]}, {"messages": TURNS}]
    path.write_text("".join(json.dumps(record) + "\n" for record in [*good, {"messages": TURNS[:2]}]))
    config = DataConfig(path=str(path), records="messages", tokenizer=folder(tmp_path / "t", CHATML), holdout=0.5)
    with pytest.raises(UserError, match="line 3 of .*chat.jsonl' has no turn of the assistant; data.bad='skip'"):
        sources.load(config)
    corpus = sources.load(DataConfig(**{**vars(config), "bad": "skip", "holdout": 1.0}))
    assert [document.name for document in corpus.held_out] == ["chat.jsonl:1", "chat.jsonl:2"]
    assert all(document.special and document.asked for document in corpus.held_out)
    assert "1 bad document (line 3 of 'chat.jsonl' has no turn of the assistant)" in corpus.notes[0]
    path.write_text(json.dumps(good[0]))
    with pytest.raises(UserError, match="holds a single document, 'chat.jsonl:1', with parts that count"):
        sources.load(config)


@pytest.mark.parametrize("weights", ["tokens", "sequences"])
def test_packed_rows_weigh_answers_as_rows_of_one_document_do(tmp_path, weights):
    """So that the gradient of a packed batch is that of its documents alone."""
    where = folder(tmp_path, CHATML)
    how, found = tokenizers.load(where), [content({"messages": TURNS[:n]}, tokenizer=where) for n in (3, 6, 7)]
    documents = [Document(str(i), one.text, asked=one.asked, special=True) for i, one in enumerate(found)]
    exponent = loss_weights.parse(weights).exponent

    def of(table, capacity):
        packed = rows.PackedRows(table, pack(table.inputs, capacity), how.pad)
        batch = loss_weights.weighted(packed.gather(np.arange(len(packed))), exponent)
        names = "tokens", "targets", "weights", "positions"
        return [
            tuple(batch[name][row][batch["segments"][row] == segment].tolist() for name in names)
            for row in range(len(packed))
            for segment in range(1, batch["segments"][row].max() + 1)
        ]

    table = rows.tokenize(documents, how)
    together = of(table, int(table.inputs.sum()))
    alone = [piece for i in range(3) for piece in of(rows.tokenize(documents[i : i + 1], how), int(table.inputs.max()))]
    assert sorted(together) == sorted(alone) and len(together) == 3
    assert sum(sum(weights) for _, _, weights, _ in together) == pytest.approx(
        table.counts.sum() if weights == "tokens" else 3, rel=1e-5
    )
