"""`glassworks chat`: a conversation with an instruction-tuned language model.

Every turn renders the whole conversation again, so an answer depends on its messages alone.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

from glassworks.config.base import nearest
from glassworks.data.messages import Message
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ArtifactError, DataError
from glassworks.generation.decoding import stream
from glassworks.generation.settings import Decoding
from glassworks.generation.text import TextStream
from glassworks.inference.language_models import Opened, open_language_model

RESET, EXIT = COMMANDS = ("/reset", "/exit")
COMMAND = re.compile(r"/[a-z]+")
PROMPT = "> "
Ended = Literal["eos", "length", "interrupted"]


class Reply(NamedTuple):
    """An answer of the model."""

    messages: list[dict[str, str]]
    """The messages that it answers, as role and content, without an image."""
    text: str
    tokens: int
    """Number of new tokens, without the end token."""
    seconds: float
    ended: Ended
    """Whether an end token, the limit of tokens or Ctrl-C ended it."""


class Dialogue:
    """The turns of a conversation with a model. Subclasses say how it becomes a prompt, and decode."""

    renewal = f"begin a new one ({RESET})"
    """How to forget all turns, for messages."""

    def __init__(
        self, model: Any, tokenizer: TextTokenizer, settings: Decoding, beginning: Sequence[Message], **about: str
    ) -> None:
        """`beginning` are the messages before the first turn. `about` is added to the JSON of every answer."""
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.beginning, self.about = list(beginning), about
        self.messages = list(beginning)
        self.reply: Reply | None = None
        """The latest answer."""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation that an answer follows. Special tokens of images are negative."""
        raise NotImplementedError

    def steps(self, prompt: list[int]) -> Iterator[list[tuple[int, int]]]:
        """The stream of new tokens (`generation.decoding.decode`)."""
        raise NotImplementedError

    @property
    def context(self) -> int:
        """Maximum number of tokens of the conversation."""
        return int(self.model.decoder.max_tokens)

    def reset(self) -> None:
        """Forget all turns. The system message or the image stays."""
        self.messages = list(self.beginning)

    def answer(self, text: str) -> Generator[str, None, None]:
        """The answer to a message, streamed in pieces; afterwards it is in `reply`.

        An answer that Ctrl-C interrupts stays in the conversation. A message that cannot be answered does not: raises `DataError` if it leaves no room in
        the context.
        """
        begun = time.monotonic()
        asked = [*self.messages, Message(role="user", content=text)]
        prompt = self.prompt(asked)
        if len(prompt) >= self.context:
            raise DataError(
                f"the conversation has {len(prompt):,} tokens and the model a context of {self.context:,}; "
                f"{self.renewal if self.messages != self.beginning else 'shorten the message'}"
            )
        room = min(self.settings.max_new_tokens or self.context, self.context - len(prompt))
        before = [token for token in prompt if token >= 0]  # without the tokens of an image
        pieces = TextStream(self.tokenizer.text, self.tokenizer.settled, before)
        shown: list[str] = []

        def record(ended: Ended) -> None:
            answer, count = "".join(shown), len(pieces.ids) - len(before)
            texts = [(message.role, message.content) for message in asked]
            messages = [{"role": role, "content": text} for role, text in texts if isinstance(text, str)]
            self.reply = Reply(messages, answer, count, round(time.monotonic() - begun, 3), ended)
            self.messages = [*asked, Message(role="assistant", content=answer)]

        try:
            for step in self.steps(prompt):
                for _, token in step:
                    shown.append(pieces.add(token))
                    yield shown[-1]
        except (KeyboardInterrupt, GeneratorExit):
            record("interrupted")
            raise
        shown.append(pieces.end())
        record("length" if len(pieces.ids) - len(before) >= room else "eos")
        yield shown[-1]


class Conversation(Dialogue):
    """A conversation with a language model."""

    def __init__(
        self,
        directory: Path,
        settings: Decoding,
        system: str | None,
        project: Path,
        base: Path | None = None,
        merge: bool = False,
        opened: Opened | None = None,
    ) -> None:
        """`opened` is the model of the folder if it is open already. Raises `ArtifactError` for a model without a chat template."""
        opened = opened or open_language_model(directory, project, base, merge)
        if opened.template is None:
            raise ArtifactError(
                f"{directory}: its tokenizer has no chat template; `glassworks generate {directory}` continues texts with it"
            )
        self.template, self.ends = opened.template, opened.ends
        beginning = [] if system is None else [Message(role="system", content=system)]
        super().__init__(opened.model, opened.tokenizer, settings, beginning)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.template.prompt(messages)

    def steps(self, prompt: list[int]) -> Iterator[list[tuple[int, int]]]:
        return stream(self.model, [prompt], self.settings, self.ends)


def run(conversation: Dialogue, turns: Iterable[str], as_json: bool, show: Callable[[str], None]) -> None:
    """Answer `turns` one after another and pass the answers to `show`: streamed, or a JSON object per line. /reset and /exit are commands."""
    for turn in turns:
        if turn == EXIT:
            return
        if turn == RESET:
            conversation.reset()
            continue
        for piece in conversation.answer(turn):
            if not as_json:
                show(piece)
        assert conversation.reply is not None
        row = {**conversation.about, **conversation.reply._asdict()}
        show(json.dumps(row, ensure_ascii=False) + "\n" if as_json else "\n")


def talk(conversation: Dialogue, show: Callable[[str], None], note: Callable[[str], None]) -> None:
    """A conversation in the terminal. Ctrl-C ends an answer; a second one, or /exit, ends the conversation. `note` gets remarks."""
    note(f"a context of {conversation.context:,} tokens; {RESET} begins a new conversation, {EXIT} ends it\n")
    interrupted = False
    while True:
        try:
            turn = input(PROMPT).strip()
        except EOFError:
            show("\n")
            return
        except KeyboardInterrupt:
            show("\n")
            if interrupted:
                return
            interrupted = True
            note(f"Ctrl-C again or {EXIT} ends the conversation\n")
            continue
        interrupted = False
        if turn == EXIT:
            return
        if turn == RESET:
            conversation.reset()
            note("a new conversation\n")
        elif COMMAND.fullmatch(turn):
            note(f"no command {turn}{nearest(turn, list(COMMANDS))}; commands are {RESET} and {EXIT}\n")
        elif turn:
            interrupted = _answer(conversation, turn, show, note)


def _answer(conversation: Dialogue, turn: str, show: Callable[[str], None], note: Callable[[str], None]) -> bool:
    """Show the answer to a turn; returns whether Ctrl-C interrupted it."""
    try:
        with closing(conversation.answer(turn)) as pieces:
            for piece in pieces:
                show(piece)
    except KeyboardInterrupt:
        show("\n")
        note("interrupted; Ctrl-C again ends the conversation\n")
        return True
    except DataError as error:
        note(f"error: {error}\n")
        return False
    show("\n")
    reply = conversation.reply
    if reply and reply.ended == "length":
        full = reply.tokens < (conversation.settings.max_new_tokens or conversation.context)
        reason = (
            f"the context is full; {RESET} begins a new conversation" if full else "--max-new-tokens sets the limit"
        )
        note(f"cut after {reply.tokens:,} tokens: {reason}\n")
    return False


def read_turns() -> Iterator[str]:
    """The turns of standard input, one per line. Raises `DataError` if they are not UTF-8 text."""
    try:
        for line in sys.stdin:
            if line.strip():
                yield line.strip()
    except UnicodeDecodeError:
        raise DataError("standard input: not UTF-8 text; turns stand one a line") from None
