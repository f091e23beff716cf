"""Chat templates render what transformers renders, and explain themselves where they cannot."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from server.errors import InvalidRequest
from server.text.chat import ChatTemplate
from tests.text.vocabularies import byte_level, tokenizer

NAMES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN25 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system") or (message.role == "assistant") %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
MISTRAL = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}
{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}
{% else %}
{{ raise_exception('Only user and assistant roles are supported!') }}
{% endif %}
{% endfor %}
"""
TEMPLATES = {"smollm2": SMOLLM2, "llama3": LLAMA3, "qwen2.5": QWEN25, "mistral": MISTRAL}

SHORT = [{"role": "user", "content": "Hi <b>&amp; 'you' 日本 🙂"}]
LONG = [*SHORT, {"role": "assistant", "content": "  Hello!  "}, {"role": "user", "content": "More?\n"}]
ENDS_WITH_ANSWER = LONG[:2]
TOOLS = [{"type": "function", "function": {"name": "clock", "description": "<time> in 'Zürich'"}}]


def oracle(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    judge = PreTrainedTokenizerFast(tokenizer_object=byte_level(), **NAMES)
    rendered = judge.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
    assert isinstance(rendered, str)
    return rendered


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", [SHORT, LONG])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_it_renders_what_transformers_renders(
    name: str, messages: list[dict[str, Any]], add_generation_prompt: bool
) -> None:
    ours = ChatTemplate(TEMPLATES[name], NAMES).render(messages, add_generation_prompt=add_generation_prompt)
    assert ours == oracle(TEMPLATES[name], messages, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("content", ["Once upon", "Once upon ", "Once\n"])
def test_it_continues_the_final_message_as_transformers_does(name: str, content: str) -> None:
    messages = [*SHORT, {"role": "assistant", "content": content}]
    ours = ChatTemplate(TEMPLATES[name], NAMES).render(
        messages, add_generation_prompt=False, continue_final_message=True
    )
    assert ours == oracle(TEMPLATES[name], messages, continue_final_message=True)
    assert ours.endswith((content.rstrip(), content))


def test_variables_of_the_template_reach_it() -> None:
    options: dict[str, Any] = {"tools": TOOLS, "enable_thinking": False}
    ours = ChatTemplate(QWEN25, NAMES).render(SHORT, **options)
    assert ours == oracle(QWEN25, SHORT, add_generation_prompt=True, **options)
    assert "<time> in 'Zürich'" in ours
    assert ours.endswith("</think>\n\n")


def test_content_in_parts_can_be_continued() -> None:
    template = "{% for m in messages %}{% for part in m.content %}{{ part.text }}|{% endfor %}{% endfor %}"
    messages = [
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ]
    ours = ChatTemplate(template, {}).render(
        messages, add_generation_prompt=False, continue_final_message=True
    )
    assert ours == "a|b"
    assert messages[0]["content"][1] == {"type": "text", "text": "b"}  # the caller's own stays as it was


def test_what_the_template_says_reaches_the_caller() -> None:
    with pytest.raises(InvalidRequest, match="Only user and assistant roles are supported") as caught:
        ChatTemplate("{{ raise_exception('Only user and assistant roles are supported!') }}", {}).render(
            SHORT
        )
    assert caught.value.parameter == "messages"


@pytest.mark.parametrize(
    "messages",
    [[{"role": "user"}], [{"role": "user", "content": None}], [{"role": "user", "content": 3}], []],
)
def test_messages_of_a_shape_that_the_template_did_not_expect_are_the_callers_error(
    messages: list[dict[str, Any]],
) -> None:
    with pytest.raises(InvalidRequest, match="template"):
        ChatTemplate("{{ messages[0]['content'] + 'x' }}", {}).render(messages)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ raise_exception.__globals__ }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    try:
        rendered = ChatTemplate(template, {}).render(SHORT)
    except InvalidRequest:
        return
    assert rendered == ""  # what is unsafe is undefined, and undefined is nothing


@pytest.mark.parametrize(
    "messages", [[], [{"role": "user"}], [{"role": "user", "content": [{"image": "x"}]}]]
)
def test_there_must_be_text_to_continue(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest, match="no text to continue"):
        ChatTemplate(SMOLLM2, NAMES).render(
            messages, add_generation_prompt=False, continue_final_message=True
        )


def test_to_continue_and_to_begin_an_answer_exclude_each_other() -> None:
    with pytest.raises(InvalidRequest, match="exclude each other"):
        ChatTemplate(SMOLLM2, NAMES).render(ENDS_WITH_ANSWER, continue_final_message=True)


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        tokenizer("byte level").render_chat(SHORT)
