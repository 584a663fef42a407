"""Chat templates: conversations as token ids, with a loss weight for each token.

transformers renders the templates in its sandbox. The weights are derived from renderings of the beginnings of a conversation, so a template needs no
marks. A template that renders an answer differently once another message follows is refused, and so is one that ends no answer with a token.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError, TemplateSyntaxError

from glassworks.data.messages import SUPERVISED, TOOLS, Message
from glassworks.data.reading.text import FILES, TEMPLATE, TextTokenizer
from glassworks.data.reading.tokens import Document, content_of, document_of
from glassworks.errors import ArtifactError, ConfigError, DataError

KEY = "chat_template"
"""The key of a template in tokenizer_config.json."""
OPEN, CLOSE = r"(?:<think>|\[THINK\]|<\|START_THINKING\|>)", r"(?:</think>|\[/THINK\]|<\|END_THINKING\|>)"
OPENED = re.compile(rf"{OPEN}\s*(?:{CLOSE}\s*)?\Z")
"""A thinking block that a generation prompt begins, or leaves empty."""
EMPTY = re.compile(rf"\s*{OPEN}\s*{CLOSE}\s*")
DATES = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
TODAY = {"%d %b %Y": "26 Jul 2024", "%Y-%m-%d": "2024-07-26", "%B %d, %Y": "July 26, 2024"}
"""The date of every rendering, by format: Llama 3's own if it has none. Today's would change the tokens every day."""
SHORT = [Message(role=role, content="a") for role in ("user", SUPERVISED)]
"""A conversation that every template takes."""
Supervise = Literal["all", "last"]
Weighted = tuple[list[int], list[float]]
"""Ids, and the weight of the loss of each."""


class ChatTemplate:
    """A chat template with its tokenizer."""

    def __init__(self, source: str, tokenizer: TextTokenizer, where: str, supervise: Supervise = "all") -> None:
        """`where` names the template in errors. `supervise` gives a loss to every answer, or to the last one."""
        self.source, self.tokenizer, self.where, self.supervise = source, tokenizer, where, supervise

    @classmethod
    def of(cls, directory: Path, tokenizer: TextTokenizer, supervise: Supervise = "all") -> "ChatTemplate | None":
        """The template of a model folder: chat_template.jinja, else that of tokenizer_config.json; None without one."""
        file = directory / TEMPLATE
        if file.is_file():
            return cls(read_template(file), tokenizer, str(file), supervise)
        file = directory / FILES[1]
        try:
            config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except ValueError as error:
            raise ArtifactError(f"{file}: not JSON ({error})") from None
        found = config.get(KEY)
        if isinstance(found, list):
            found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
        return cls(found, tokenizer, f"{KEY} of {file}", supervise) if isinstance(found, str) else None

    def save(self, directory: Path) -> None:
        """Write tokenizer and template of a model trained here. The token that ends an answer ends a generated text."""
        self.tokenizer.ends = tuple(dict.fromkeys([*self.tokenizer.ends, self.stop]))
        self.tokenizer.save(directory, self.source)

    def prompt(self, messages: Sequence[Message], tools: list[Any] | None = None) -> list[int]:
        """The ids of a conversation up to and with the header of the next answer."""
        marked, schemas, mark = self._marked(messages, tools, self.where)
        return self.tokenizer.encode_chat(self._render(marked, schemas, self.where, prompt=True), mark)[0]

    def chat(self, messages: Sequence[Message], content: dict[str, Any], where: str) -> Document:
        """`document` with the tools in the JSON of the sample, as `tokenize` calls it."""
        return self.document(messages, (content.get("labels") or {}).get(TOOLS), where)

    def document(self, messages: Sequence[Message], tools: list[Any] | None = None, where: str = "") -> Document:
        """The tokens of a conversation or a message tree, and the weight of the loss of each.

        A weight holds from the end of the header of a message to the end of the message, stop token and new line after it included. Empty thinking tags
        have none.

        Raises `DataError` beginning with `where` for a medium, for messages that the template refuses or renders differently once others follow, for an
        answer without a stop token, and for messages without any loss.
        """
        where = where or self.where
        context = [message for message in messages if not message.branch]
        branches = max(message.branch for message in messages)
        if not branches:
            return document_of([self._path(context, tools, where)[0]], where)
        segments: list[Weighted] = []
        for number in range(1, branches + 1):
            path = [*context, *(message for message in messages if message.branch == number)]
            (ids, weights), ends = self._path(path, tools, where, len(context))
            if not segments:
                segments.append((ids[:ends], weights[:ends]))
            elif segments[0] != (ids[:ends], weights[:ends]):
                raise DataError(
                    f"{where}: {self.where} renders the context of branch {number} differently from that of branch 1; use another template"
                )
            segments.append(([ids[ends - 1], *ids[ends:]], [0.0, *weights[ends:]]))
        return document_of(segments, where)

    def check(self) -> None:
        """Raise `ConfigError` or `DataError` for a template that cannot be trained with, whatever the conversations are."""
        marked, _, _ = self._marked(SHORT, None, self.where)
        whole = self._render(marked, None, self.where)
        begin, _ = self._span(whole, marked, None, 1, self.where)
        ids, offsets = self.tokenizer.encode_chat(whole)
        for number, (low, high) in zip(ids, offsets, strict=True):
            if low < begin < high:
                raise ConfigError(
                    f"{self.where}: the token {self.tokenizer.shown([number])!r} holds the end of a header and the beginning of an answer, so a prompt would "
                    "have other tokens than in training; end the header without a space"
                )

    @cached_property
    def stop(self) -> int:
        """The token that ends an answer."""
        (ids, weights), _ = self._path(SHORT, None, self.where)
        stops = {self.tokenizer.id_of(text) for text in self.tokenizer.added}
        return next(
            number for number, weight in reversed(list(zip(ids, weights, strict=True))) if weight and number in stops
        )

    def _path(
        self, messages: Sequence[Message], tools: list[Any] | None, where: str, context: int = 0
    ) -> tuple[Weighted, int]:
        """Ids and weights of a conversation, and the number of tokens of its first `context` messages."""
        marked, schemas, mark = self._marked(messages, tools, where)
        whole = self._render(marked, schemas, where)
        weights = [message.loss_weight for message in messages]
        if self.supervise == "last":
            last = max((number for number, weight in enumerate(weights) if weight), default=-1)
            weights = [weight * (number == last) for number, weight in enumerate(weights)]
        spans = [
            (*self._span(whole, marked, schemas, number, where), weight)
            for number, weight in enumerate(weights)
            if weight
        ]
        cut = self._through(whole, marked, schemas, context - 1, where) if context else 0
        ids, offsets = self.tokenizer.encode_chat(whole, mark)
        if mark:  # positions in the text without marks
            spans = [(a - whole.count(mark, 0, a), b - whole.count(mark, 0, b), weight) for a, b, weight in spans]
            cut -= whole.count(mark, 0, cut)
        given = [
            next((weight for begin, end, weight in spans if low < end and high > begin), 0.0) for low, high in offsets
        ]
        return (ids, given), sum(high <= cut for _, high in offsets)

    def _span(
        self, whole: str, messages: list[dict[str, Any]], tools: list[Any] | None, number: int, where: str
    ) -> tuple[int, int]:
        """Begin and end of what a message adds to the rendered conversation after its header."""
        answers = messages[number]["role"] == SUPERVISED
        end = self._through(whole, messages, tools, number, where)
        if not answers and not number:
            return 0, end
        prompt = self._render(messages[:number], tools, where, prompt=answers)
        header = OPENED.sub("", prompt) if answers else prompt
        if not whole.startswith(header):
            raise self._not_a_prefix(number, header, whole, where)
        empty = EMPTY.match(whole, len(header), end) if answers else None
        begin = empty.end() if empty else len(prompt if whole.startswith(prompt) else header)
        if answers and not whole[begin:end].rstrip().endswith(self.tokenizer.added):
            raise DataError(
                f"{where}: messages.{number}: {self.where} ends this answer with {whole[begin:end][-20:]!r} and no token of the tokenizer, so a model "
                "would never learn to stop; use a template that ends an answer with a special token"
            )
        return begin, end

    def _through(
        self, whole: str, messages: list[dict[str, Any]], tools: list[Any] | None, number: int, where: str
    ) -> int:
        """The end of a message in the rendered conversation."""
        if number == len(messages) - 1:
            return len(whole)
        text = self._render(messages[: number + 1], tools, where)
        if whole.startswith(text):
            return len(text)
        closed = text.removesuffix(self.tokenizer.names.get("eos_token", ""))  # Phi-3 ends every conversation with it
        if whole.startswith(closed):
            return len(closed)
        raise self._not_a_prefix(number, text, whole, where)

    def _not_a_prefix(self, number: int, text: str, whole: str, where: str) -> DataError:
        pairs = enumerate(zip(text, whole, strict=False))
        at = next((place for place, (one, other) in pairs if one != other), len(whole))
        return DataError(
            f"{where}: {self.where} renders the messages up to {number} differently once others follow: {text[at : at + 30]!r} becomes "
            f"{whole[at : at + 30]!r}; set data.supervise: last, or name in data.template one that renders a message the same whatever follows"
        )

    def _render(self, messages: list[dict[str, Any]], tools: list[Any] | None, where: str, prompt: bool = False) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            variables: dict[str, Any] = {"add_generation_prompt": prompt, **self.tokenizer.names}
            found = render_jinja_template([messages], tools, chat_template=self.dated, **variables)
        except TemplateSyntaxError as error:
            raise ConfigError(f"{self.where}: not a chat template: line {error.lineno}: {error.message}") from None
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            roles = ", ".join(message["role"] for message in messages) or "no message before the first answer"
            raise DataError(f"{where}: {self.where} does not take these messages ({roles}): {error}") from None
        text: str = found[0][0]
        return text

    @cached_property
    def dated(self) -> str:
        """The template with one date for all renderings."""
        formats = {found for _, found in DATES.findall(self.source)}
        if not formats:
            return self.source
        dates = json.dumps({form: TODAY.get(form, TODAY["%Y-%m-%d"]) for form in sorted(formats)})
        return f"{{%- macro strftime_now(form) %}}{{{{ {dates}[form] }}}}{{% endmacro +%}}{self.source}"

    def _marked(
        self, messages: Sequence[Message], tools: list[Any] | None, where: str
    ) -> tuple[list[dict[str, Any]], list[Any] | None, str]:
        """Messages and tools for the template. A character, which is returned if there are any, breaks every special token in them."""
        given = [_as_json(message, where) for message in messages]
        text = json.dumps([given, tools], ensure_ascii=False)
        mark = next(character for character in map(chr, range(0xE000, 0xF900)) if character not in text)

        def broken(value: Any) -> Any:
            if isinstance(value, dict):
                return {broken(key): broken(item) for key, item in value.items()}
            if isinstance(value, list):
                return [broken(item) for item in value]
            if not isinstance(value, str):
                return value
            while match := self.tokenizer.special.search(value):
                first = match.end() - len(match.group().lstrip()) + 1
                value = f"{value[:first]}{mark}{value[first:]}"
            return value

        marked, schemas = broken(given), broken(tools)
        return marked, schemas or None, mark if (marked, schemas) != (given, tools) else ""


def read_template(file: Path) -> str:
    """The text of a template file. Raises `ConfigError` for a file that is not there or not UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such template") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a chat template ({error})") from None


def _as_json(message: Message, where: str) -> dict[str, Any]:
    """A message under the names that templates read. Arguments of calls are objects, so that a template encodes them once."""
    found = message.model_dump(include={"role", "tool_calls", "tool_call_id", "name"}, exclude_none=True)
    thoughts = {} if message.reasoning is None else {"reasoning_content": message.reasoning}
    return {**found, "content": content_of(message, where), **thoughts}
