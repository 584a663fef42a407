"""Conversations from the forms in which instruction data are published: alpaca, ShareGPT, OpenAI (ChatML), prompt and completion.

Roles, contents and tool calls are brought into one form. A conversation that is not sound raises `Unusable`; nothing is repaired silently.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from glassworks.config.base import nearest
from glassworks.data.json_files import NotJSON, is_canonical, parse_json
from glassworks.data.messages import Function, Message, ToolCall
from glassworks.data.texts import has_ink

FORMS = {
    "alpaca": "instruction, output, and optionally input, system, history",
    "ShareGPT": "conversations of from and value",
    "OpenAI": "messages of role and content",
    "prompt and completion": "prompt, completion: texts or messages",
}
"""The forms and their keys."""
LISTS = ("messages", "conversations", "conversation")
ROLES = {
    **{name: "system" for name in ("system", "developer")},
    **{name: "user" for name in ("user", "human")},
    **{name: "assistant" for name in ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "function_call")},
    **{name: "tool" for name in ("tool", "function", "observation", "function_response", "ipython")},
}
REASONING = ("reasoning", "reasoning_content", "thinking")
READ = {"role", "content", "weight", "tool_calls", "tool_call_id", "name", *REASONING}
LOSS_KEYS = {"train", "training", "loss", "loss_weight", "mask", "masked"}
"""Keys of other tools that set the loss of a message."""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Unusable(ValueError):
    """A conversation that cannot be used. `str(error)` is the reason."""


@dataclass
class Conversation:
    """The messages of a row, and the functions that its assistant may call."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    remarks: list[str] = field(default_factory=list)
    """Facts about the row that lose nothing."""


def form_of(row: dict[str, Any]) -> str | None:
    """The form of a row by its keys, a name in `FORMS`; None for no form."""
    for key in LISTS:
        if isinstance(row.get(key), list):
            keys = {name for turn in row[key] if isinstance(turn, dict) for name in turn}
            return "ShareGPT" if keys & {"from", "value"} else "OpenAI" if keys & {"role", "content"} else None
    present = {key for key, value in row.items() if value is not None}
    if {"prompt", "completion"} <= present:
        return "prompt and completion"
    return "alpaca" if {"instruction", "output"} <= present else None


def convert(form: str, row: dict[str, Any]) -> Conversation:
    """The conversation of a row in this form. Raises `Unusable`."""
    remarks: list[str] = []
    turns = TURNS[form](row)
    messages = [message for turn in turns if (message := _message(turn, remarks))]
    _check_order(messages)
    if messages[-1].role != "assistant":
        remarks.append(f"a conversation ends with a message of the role {messages[-1].role}, which has no loss")
    return Conversation(messages, _tools(row.get("tools"), remarks), remarks)


# Forms


def _alpaca(row: dict[str, Any]) -> list[Any]:
    """Instruction and input are joined by a line break, as LLaMA-Factory does."""
    turns = _system(row)
    for pair in _listed(row, "history"):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unusable("history is not a list of pairs of a question and an answer")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    given = [_text(row.get(key), key) for key in ("instruction", "input")]
    output = row.get("output")
    asked = "\n".join(text for text in given if text.strip())
    return [*turns, {"role": "user", "content": asked}, {"role": "assistant", "content": output}]


def _sharegpt(row: dict[str, Any]) -> list[Any]:
    turns = _system(row)
    for turn in _conversation(row):
        if not isinstance(turn, dict) or turn.get("from") is None:
            raise Unusable("a message has no role" if isinstance(turn, dict) else "a message is not a JSON object")
        rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
        role, value = turn["from"], turn.get("value")
        calls = {"tool_calls": _called(value)} if role == "function_call" else {}
        turns.append({**rest, "role": role, "content": None if calls else value, **calls})
    return turns


def _openai(row: dict[str, Any]) -> list[Any]:
    return [*_system(row), *_conversation(row)]


def _completion(row: dict[str, Any]) -> list[Any]:
    """Answers in the prompt have no loss, as in TRL."""
    prompt, completion = (
        row[key] if isinstance(row.get(key), list) else [{"role": role, "content": row.get(key)}]
        for key, role in (("prompt", "user"), ("completion", "assistant"))
    )
    quiet = [
        {**turn, "weight": 0} if isinstance(turn, dict) and ROLES.get(str(turn.get("role"))) == "assistant" else turn
        for turn in prompt
    ]
    return [*_system(row), *quiet, *completion]


TURNS: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "alpaca": _alpaca,
    "ShareGPT": _sharegpt,
    "OpenAI": _openai,
    "prompt and completion": _completion,
}


def _system(row: dict[str, Any]) -> list[Any]:
    """The system message that a row has beside its messages."""
    return [] if row.get("system") is None else [{"role": "system", "content": row["system"]}]


def _conversation(row: dict[str, Any]) -> list[Any]:
    found = next((row[key] for key in LISTS if row.get(key) is not None), None)
    if not isinstance(found, list) or not found:
        raise Unusable("no messages")
    return found


def _listed(row: dict[str, Any], key: str) -> list[Any]:
    found = row.get(key)
    if found is not None and not isinstance(found, list):
        raise Unusable(f"{key} is not a list (found: {type(found).__name__})")
    return found or []


def _called(value: Any) -> list[Any]:
    """The calls in the text of ShareGPT's `function_call`: one object or several, each of name and arguments."""
    try:
        found = parse_json(value) if isinstance(value, str) else value
    except NotJSON as error:
        raise Unusable(f"a function_call cannot be read: {error}") from None
    return found if isinstance(found, list) else [found]


# Messages


def _message(turn: Any, remarks: list[str]) -> Message | None:
    """A message of OpenAI's form; None for an empty system message."""
    if not isinstance(turn, dict):
        raise Unusable("a message is not a JSON object")
    turn = {key: value for key, value in turn.items() if value is not None}
    if not turn.get("role"):
        raise Unusable("a message has no role")
    given = turn["role"]
    role = ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        raise Unusable(f"unknown role: {given!r:.40}{nearest(str(given), list(ROLES))}")
    for key in sorted(turn.keys() - READ):
        hint = "; write weight (0 or 1) to set its loss" if key in LOSS_KEYS else ""
        remarks.append(f"the key {key!r:.40} of a message is not read{hint}")
    content, reasoning = _text(turn.get("content"), f"the content of {role}"), _reasoning(turn)
    calls = _calls(turn.get("tool_calls"), remarks)
    if calls and role != "assistant":
        raise Unusable(f"a message of the role {role} has tool calls")
    if not any(map(has_ink, content)) and not calls and role != "tool":
        if role == "system":
            remarks.append("an empty system message is left out")
            return None
        raise Unusable("an answer is empty" if role == "assistant" else f"a message of the role {role} is empty")
    return Message(
        role=role,
        content=content,
        weight=_weight(turn.get("weight"), role),
        tool_calls=calls or None,
        tool_call_id=_text(turn.get("tool_call_id"), "tool_call_id") or None,
        name=_text(turn.get("name"), "the name of a message") or None,
        reasoning=reasoning,
    )


def _text(given: Any, what: str) -> str:
    """A text, or the texts of content parts joined; empty for null."""
    if isinstance(given, list):
        for part in given:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            if kind != "text" or not isinstance(part.get("text"), str):
                raise Unusable(f"{what} has a part that is not read (type: {kind}); only texts are")
        given = "".join(part["text"] for part in given)
    if given is None or (isinstance(given, float) and math.isnan(given)):
        return ""
    if not isinstance(given, str):
        raise Unusable(f"{what} is not text (found: {type(given).__name__})")
    if found := CONTROL.search(given):
        code = ord(found.group())
        if code == 0:
            raise Unusable(f"{what} holds a NUL character")
        kind = "half of a character" if 0xD800 <= code <= 0xDFFF else "a control character"
        raise Unusable(f"{what} holds {kind} (U+{code:04X})")
    return given


def _reasoning(turn: dict[str, Any]) -> str | None:
    found = [_text(turn[key], key) for key in REASONING if key in turn]
    if len(set(found)) > 1:
        raise Unusable(f"a message has two different thoughts ({', '.join(key for key in REASONING if key in turn)})")
    return (found[0] or None) if found else None


def _weight(given: Any, role: str) -> float | None:
    """The weight of the loss; None for the default of the role."""
    if given is None:
        return None
    if isinstance(given, bool) or given not in (0, 1):
        raise Unusable(f"the weight of a message is neither 0 nor 1 (found: {given!r:.40})")
    return None if given == float(role == "assistant") else float(given)


def _calls(given: Any, remarks: list[str]) -> list[ToolCall]:
    if given is not None and not isinstance(given, list):
        raise Unusable(f"tool_calls is not a list (found: {type(given).__name__})")
    calls = []
    for call in given or []:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Unusable("a tool call has no function with a name")
        if call.get("type", "function") != "function":
            raise Unusable(f"a tool call is of the type {call['type']!r:.40}; only functions are read")
        arguments = _arguments(function.get("arguments"), remarks)
        identity = _text(call.get("id"), "the id of a tool call") or None
        calls.append(
            ToolCall(type="function", function=Function(name=function["name"], arguments=arguments), id=identity)
        )
    return calls


def _arguments(given: Any, remarks: list[str]) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = parse_json(given)
        except NotJSON as error:
            raise Unusable(f"the arguments of a tool call cannot be read: {error}") from None
        if isinstance(given, str):
            raise Unusable("the arguments of a tool call are JSON text inside JSON text")
        remarks.append("the arguments of a tool call are JSON text; they are read as an object")
    if not isinstance(given, dict):
        found = "nothing" if given is None else type(given).__name__
        raise Unusable(f"the arguments of a tool call are not a JSON object (found: {found})")
    if not is_canonical(given):
        raise Unusable("the arguments of a tool call hold NaN, an infinity or half of a character")
    return given


def _tools(given: Any, remarks: list[str]) -> list[dict[str, Any]]:
    """The schemas of functions, each as {type: function, function: {name, …}}."""
    if isinstance(given, str):
        try:
            given = parse_json(given) if given.strip() else None
        except NotJSON as error:
            raise Unusable(f"tools cannot be read: {error}") from None
    if given is None:
        return []
    if not isinstance(given, list):
        raise Unusable(f"tools is not a list of function schemas (found: {type(given).__name__})")
    tools = []
    for tool in given:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not is_canonical(tool):
            raise Unusable("tools has an entry that is no function schema with a name")
        if "function" not in tool:
            remarks.append("a schema in tools is wrapped as {type: function, function: …}")
        tools.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tools


def _check_order(messages: list[Message]) -> None:
    """Raise `Unusable` for an order of messages that no chat template can mean."""
    roles = [message.role for message in messages]
    if roles.count("system") > 1:
        raise Unusable("two system messages")
    if "system" in roles[1:]:
        raise Unusable("a system message comes after other messages")
    if "assistant" not in roles:
        raise Unusable("no assistant message")
    if not any(message.loss_weight for message in messages):
        raise Unusable("no message has a loss (every weight is 0)")
    calls: set[str] = set()
    for message in messages:
        calls |= {call.id for call in message.tool_calls or [] if call.id}
        if message.tool_call_id and calls and message.tool_call_id not in calls:
            raise Unusable(f"a tool answers a call that was not made (tool_call_id: {message.tool_call_id:.40})")
