"""Chat templates: a conversation becomes the one text that the model was trained to continue.

A template is a Jinja program that came with somebody's weights, so it runs in a sandbox, sees plain JSON
values only, and is never taken from a request. What it may call is what `transformers` offers to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.errors import InvalidRequest

Message = Mapping[str, Any]

_CUT_HERE = "CONTINUE_FINAL_MESSAGE_TAG "  # the space shows whether the template trims messages


class ChatTemplate:
    """One model's template. Rendering is thread-safe."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        """`names` are special tokens by role ("bos_token"). Raises jinja2.TemplateSyntaxError."""
        self.source = source
        self._names = dict(names)
        self._template = _ENVIRONMENT.from_string(source)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt. `variables` are the template's own ("enable_thinking").

        With `continue_final_message` it ends within the last message, for the model to go on with.
        Raises InvalidRequest, with the template's own words where the template objects.
        """
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest(
                "`continue_final_message` and `add_generation_prompt` exclude each other",
                parameter="continue_final_message",
            )
        if not continue_final_message:
            return self._render(messages, add_generation_prompt=add_generation_prompt, **variables)
        marked, final = _marked(messages)
        return _cut(self._render(marked, add_generation_prompt=False, **variables), final)

    def _render(self, messages: Sequence[Message], **variables: Any) -> str:
        try:
            values = {"tools": None, "documents": None, **self._names, **_plain(variables)}
            return self._template.render(values | {"messages": _plain(messages)})
        except jinja2.TemplateError as error:
            reason = f"the chat template refused: {error.message or type(error).__name__}"
        # A template is a program: on messages of a shape that it did not expect, it fails as programs do.
        except (TypeError, ValueError, KeyError, AttributeError, LookupError, OverflowError) as error:
            reason = f"the chat template cannot render these messages: {error}"
        except RecursionError:
            reason = "the chat template cannot render these messages: they are nested too deeply"
        raise InvalidRequest(reason, parameter="messages")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)  # local time, as transformers has it


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own would escape HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model wrote, for training; here it is void."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


_ENVIRONMENT = _environment()


def _plain(value: Any) -> Any:
    """JSON values rebuilt, so that a template has nothing else to call. Raises TypeError for any other."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"a value of type {type(value).__name__} is not JSON")


def _marked(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """The messages with a mark at the end of the last one's text, and that text."""
    last = dict(messages[-1]) if messages else {}
    content = last.get("content")
    if isinstance(content, str):
        return [*messages[:-1], {**last, "content": content + _CUT_HERE}], content
    parts = list(content) if isinstance(content, list | tuple) else []
    for index, part in reversed(list(enumerate(parts))):
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            parts[index] = {**part, "text": part["text"] + _CUT_HERE}
            return [*messages[:-1], {**last, "content": parts}], part["text"]
    raise InvalidRequest("the last message has no text to continue", parameter="messages")


def _cut(rendered: str, final: str) -> str:
    mark = _CUT_HERE.strip()
    if mark not in rendered or final.strip() not in rendered:
        raise InvalidRequest("the chat template left the last message out: it cannot be continued")
    place = rendered.rindex(mark)
    kept = rendered[:place]
    # A template that trims its messages took the mark's own space, and so would have taken theirs.
    return kept if rendered.startswith(_CUT_HERE, place) else kept.rstrip()
