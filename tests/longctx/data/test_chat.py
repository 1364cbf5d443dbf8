"""Chat templates: where they are found, what they are given, and how they fail."""

import json

import pytest

from longctx.data import chat
from longctx.errors import UserError

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi \u00fc"}]
CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def folder(tmp_path, **files):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / f"{name}.{'jinja' if isinstance(content, str) else 'json'}").write_text(text)
    return tmp_path


def test_turns_are_written_as_the_template_has_it(tmp_path):
    template = chat.load(folder(tmp_path, tokenizer_config={"chat_template": CHATML}))
    want = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi \u00fc<|im_end|>\n"
    assert template.render(TURNS, ask=False) == want
    assert template.render(TURNS) == want + "<|im_start|>assistant\n"


def test_special_tokens_json_and_dates(tmp_path):
    source = "{{ bos_token }}{{ eos_token }}{{ messages | tojson }}{{ strftime_now('%Y') | length }}"
    config = {"chat_template": source, "bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    text = chat.load(folder(tmp_path, tokenizer_config=config)).render(TURNS[1:])
    assert text == '<s></s>[{"role": "user", "content": "Hi \u00fc"}]4'


def test_a_file_of_its_own_comes_first_and_of_a_list_the_default(tmp_path):
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}]
    where = folder(tmp_path, tokenizer_config={"chat_template": several})
    assert chat.load(where).render(TURNS) == "default"
    assert chat.load(folder(tmp_path, chat_template={"chat_template": "in json"})).render(TURNS) == "in json"
    (tmp_path / "chat_template.jinja").write_text("of its own")
    assert chat.load(where).render(TURNS) == "of its own"


@pytest.mark.parametrize(
    "source, words",
    [
        ("a\nb {% if %}", r"tokenizer_config.json, line 2: Expected an expression"),
        ("{{ raise_exception('roles must alternate') }}", r"tokenizer_config.json: roles must alternate"),
        ("{{ messages[0].content.no.thing }}", "has no attribute 'no'"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_templates_that_fail_say_where(tmp_path, source, words):
    template = chat.load(folder(tmp_path, tokenizer_config={"chat_template": source}))
    with pytest.raises(UserError, match=words) as error:
        template.render(TURNS)
    assert "\n" not in str(error.value)


def test_a_model_that_was_not_made_for_turns(tmp_path):
    with pytest.raises(UserError, match="has no chat template .*give it a text to continue"):
        chat.load(folder(tmp_path, tokenizer_config={"chat_template": None}))


@pytest.mark.parametrize(
    "message", [{"role": "robot", "content": "x"}, {"role": "user"}, {"role": "user", "content": 3}]
)
def test_messages_that_are_none(tmp_path, message):
    template = chat.load(folder(tmp_path, tokenizer_config={"chat_template": "x"}))
    with pytest.raises(UserError, match=r"messages\[0\]=.* must have a content and a role of system, user"):
        template.render([message])
