"""`glassworks chat` answers turn by turn, and says in one line what is wrong."""

import io
import json
import signal

import pytest

from glassworks.generation.settings import Decoding
from glassworks.inference.chat import Conversation, talk

from .instructed import write_base

LIMIT = ("--max-new-tokens", 8)


@pytest.fixture
def base(tmp_path, monkeypatch):
    """data/weights/base, in a project that is the current folder."""
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "data/weights/base")
    return "data/weights/base"


def rows(output):
    return [json.loads(line) for line in output.splitlines()]


def test_several_messages_are_the_turns_of_one_conversation(base, ask):
    code, shown, _ = ask(
        "chat", base, "--system", "be short", "--message", "word", "--message", "more", *LIMIT, "--json"
    )
    first, second = rows(shown)
    assert code == 0
    assert first["messages"] == [{"role": "system", "content": "be short"}, {"role": "user", "content": "word"}]
    assert second["messages"] == [
        *first["messages"],
        {"role": "assistant", "content": first["text"]},
        {"role": "user", "content": "more"},
    ]
    assert first["tokens"] == 8 and first["ended"] == "length" and first["seconds"] >= 0
    streamed = ask("chat", base, "--system", "be short", "--message", "word", "--message", "more", *LIMIT)[1]
    assert streamed == first["text"] + "\n" + second["text"] + "\n"


def test_lines_of_standard_input_are_turns_and_commands(base, ask, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("word\n\n/reset\nword\nmore\n/exit\nmore\n"))
    first, again, third = rows(ask("chat", base, *LIMIT, "--json")[1])
    assert first["text"] == again["text"] and len(again["messages"]) == 1 and len(third["messages"]) == 3


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|im_end|>"])
def test_an_answer_ends_at_every_end_token_and_at_that_of_the_template(base, tmp_path, end):
    """Pain 2 at decoding: EOS of the tokenizer is not the token that ends a turn."""
    conversation = Conversation(tmp_path / base, Decoding(max_new_tokens=20), None, tmp_path)
    *_, ids = [conversation.tokenizer.id_of(token) for token in ("a", end)]
    calls = iter([5, 6, ids, 7])
    decoder = conversation.model.decoder
    plain = type(decoder).logits

    def forced(hidden):
        logits = plain(decoder, hidden)
        logits[..., next(calls)] = 1e4
        return logits

    decoder.logits = forced
    text = "".join(conversation.answer("word"))
    assert conversation.reply.tokens == 2 and conversation.reply.ended == "eos" and conversation.reply.text == text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--message", "word " * 400], 3, "tokens and the model a context of 256; shorten the message"),
        (["--message", "a", "--base", "data/weights/base"], 2, "--base: data/weights/base holds a whole model"),
        (["--message", "a", "--merge"], 2, "--merge: data/weights/base holds a whole model and no adapter; leave"),
    ],
)
def test_what_cannot_be_is_one_clear_line(base, ask, arguments, code, message):
    found, shown, error = ask("chat", base, *arguments)
    assert found == code and shown == ""
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_model_without_a_template_is_one_clear_line(writer, ask):
    code, _, error = ask("chat", writer, "--message", "a")
    assert code == 4 and error == (
        "error: models/writer: its tokenizer has no chat template; `glassworks generate models/writer` continues texts with it\n"
    )


class Terminal:
    """Types lines; an exception in their place is raised."""

    def __init__(self, monkeypatch, *lines):
        self.lines, self.shown, self.notes = iter(lines), [], []
        monkeypatch.setattr("builtins.input", self.input)

    def input(self, prompt):
        line = next(self.lines)
        if not isinstance(line, str):
            raise line
        return line


def test_ctrl_c_ends_an_answer_and_a_second_one_the_conversation(base, tmp_path, monkeypatch):
    conversation = Conversation(tmp_path / base, Decoding(max_new_tokens=100), None, tmp_path)
    terminal = Terminal(monkeypatch, KeyboardInterrupt(), "/rest", "word", "again", KeyboardInterrupt())

    def show(text):
        terminal.shown.append(text)
        if len(conversation.messages) == 2 and text.strip():  # in the second answer
            signal.raise_signal(signal.SIGINT)

    talk(conversation, show, terminal.notes.append)
    roles = [message.role for message in conversation.messages]
    assert conversation.reply.ended == "interrupted" and conversation.reply.tokens < 100
    assert roles == ["user", "assistant", "user", "assistant"], "the interrupted answer stays in the conversation"
    assert "Ctrl-C again or /exit ends the conversation\n" in terminal.notes
    assert "no command /rest; did you mean '/reset'?; commands are /reset and /exit\n" in terminal.notes
    assert "interrupted; Ctrl-C again ends the conversation\n" in terminal.notes


def test_a_conversation_that_fills_the_context_goes_on_after_a_reset(base, tmp_path, monkeypatch):
    conversation = Conversation(tmp_path / base, Decoding(min_new_tokens=256), None, tmp_path)
    terminal = Terminal(monkeypatch, "word", "word " * 400, "/reset", "word", "/exit")
    talk(conversation, terminal.shown.append, terminal.notes.append)
    notes = "".join(terminal.notes)
    assert "the context is full; /reset begins a new conversation" in notes
    assert "and the model a context of 256; begin a new one (/reset)" in notes
    assert len(conversation.messages) == 2
