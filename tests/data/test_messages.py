"""The sources `messages` and `openorca`: each published form gives its right conversation, and each defect a line or a counted drop."""

import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glassworks.data.messages import as_json
from glassworks.data.records import read_table
from glassworks.errors import DataError
from glassworks.sources.messages.forms import Unusable, convert, form_of

S, U, A = (
    {"role": role, "content": content}
    for role, content in (("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"))
)
WEATHER = {"type": "function", "function": {"name": "weather", "description": "…", "parameters": {"type": "object"}}}


def call(arguments: object, **more) -> dict:
    return {"type": "function", "function": {"name": "weather", "arguments": arguments}, **more}


def lines(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(*rows: dict) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


@pytest.fixture
def read(project, capsys):
    """Fetches and reads these files; returns the records, the dropped rows and the remarks."""

    def read(
        source: str = "messages",
        dropped: int = 0,
        path: str = "own",
        files: dict[str, bytes] | None = None,
        **named: bytes,
    ):
        given = {
            **(files or {}),
            **{name.replace("_jsonl", ".jsonl").replace("_parquet", ".parquet"): data for name, data in named.items()},
        }
        for name, data in given.items():
            file = project.root / "own" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        settings = {"source": source, "path": path, "max_dropped": dropped}
        if source == "messages" and len(given) == 1:
            settings["splits"] = {"validation": 0, "test": 0}
        project.configure({"seed": 1, "datasets": {"chat": settings}})
        project.run("fetch-chat")
        folder = project.run("records-chat")
        listed = {
            name: json.loads(file.read_text()) if (file := folder / f"{name}.json").exists() else []
            for name in ("dropped", "remarks")
        }
        return list(read_table(folder)), listed["dropped"], listed["remarks"]

    return read


def test_a_file_is_a_data_set_too_and_the_shards_hold_its_messages(read, project):
    records, _, _ = read(
        path="own/chat.jsonl", chat_jsonl=lines({"messages": [S, U, A], "tools": [WEATHER]}), other_jsonl=b"no JSON"
    )
    assert [as_json(record.messages) for record in records] == [[S, U, A]]
    assert records[0].labels == {"tools": [WEATHER]} and records[0].texts == []
    assert (project.run("shards-chat") / "train-00000.tar").stat().st_size > 0


FORMS = [
    ("alpaca", {"instruction": "Hi", "output": "Ho"}, [U, A]),
    ("alpaca", {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be brief.", "history": [["Hi", "Ho"]]},
     [S, U, A, {"role": "user", "content": "Add.\n1, 2"}, {"role": "assistant", "content": "3"}]),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Ho", "system": ""}, [U, A]),
    ("ShareGPT", {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, [S, U, A]),
    ("ShareGPT", {"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho", "weight": 0}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
     [S, U, {**A, "weight": 0.0}, U, A]),
    ("ShareGPT", {"conversations": [
        {"from": "human", "value": "Hi"}, {"from": "function_call", "value": '{"name": "weather", "arguments": {"b": 1, "a": null}}'},
        {"from": "observation", "value": "21"}, {"from": "gpt", "value": "Ho"}]},
     [U, {"role": "assistant", "content": "", "tool_calls": [call({"b": 1, "a": None})]}, {"role": "tool", "content": "21"}, A]),
    ("OpenAI", {"messages": [S, U, A]}, [S, U, A]),
    ("OpenAI", {"conversations": [{"role": "human", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, {"role": "model", "content": "Ho"}]}, [U, A]),
    ("OpenAI", {"messages": [{**U, "name": "Ann"}, {**A, "weight": 1, "reasoning_content": "Hm."}, U, {**A, "weight": 0, "tool_calls": None}]},
     [{**U, "name": "Ann"}, {**A, "reasoning": "Hm."}, U, {**A, "weight": 0.0}]),
    ("OpenAI", {"messages": [U, {"role": "assistant", "content": None, "tool_calls": [call('{"city": "Rome"}', id="c1")]}, {"role": "tool", "content": "", "tool_call_id": "c1"}, A]},
     [U, {"role": "assistant", "content": "", "tool_calls": [call({"city": "Rome"}, id="c1")]}, {"role": "tool", "content": "", "tool_call_id": "c1"}, A]),
    ("prompt and completion", {"prompt": "Hi", "completion": "Ho"}, [U, A]),
    ("prompt and completion", {"prompt": [S, U, A, U], "completion": [A]}, [S, U, {**A, "weight": 0.0}, U, A]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "row", "expected"), FORMS)
def test_each_form_gives_its_conversation(form, row, expected):
    assert form_of(row) == form and as_json(convert(form, row).messages) == expected


def test_the_form_of_each_file_is_recognised_and_said(read):
    files = {f"{number}.jsonl": lines(row, row) for number, (_, row, _) in enumerate(FORMS, start=10)}
    records, _, remarks = read(files=files)
    assert [as_json(record.messages) for record in records[::2]] == [expected for _, _, expected in FORMS]
    assert len({record.key for record in records}) == len(records) == 2 * len(FORMS)
    for name in ("alpaca", "ShareGPT", "OpenAI", "prompt and completion"):
        count = 2 * [form for form, _, _ in FORMS].count(name)
        assert any(
            remark["reason"].startswith(f"a row in the {name} form (") and remark["count"] == count
            for remark in remarks
        )


def test_json_and_parquet_give_the_conversations_of_jsonl(read):
    rows = [row for form, row, _ in FORMS if form == "OpenAI"][:1] * 2
    found = read(files={"a.jsonl": lines(*rows), "b.json": json.dumps(rows).encode(), "c.parquet": parquet(*rows)})[0]
    assert [as_json(record.messages) for record in found] == [[S, U, A]] * 6


def test_pain_10_what_arrow_merged_is_cleaned_and_said(read):
    """Arrow gives every call the arguments of all calls, filled with null; a JSONL of the same rows does not."""
    rows = [
        {"messages": [U, {"role": "assistant", "content": "", "tool_calls": [call({"city": "Rome"})]}], "tools": [WEATHER]},
        {"messages": [{**U, "name": "Ann"}, {"role": "assistant", "content": "", "tool_calls": [call({"unit": "C"})]}], "tools": [WEATHER]},
    ]  # fmt: skip
    merged = pq.read_table(io.BytesIO(parquet(*rows))).to_pylist()
    assert merged[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"city": "Rome", "unit": None}
    records, _, remarks = read(chat_parquet=parquet(*rows))
    assert [as_json(record.messages) for record in records] == [row["messages"] for row in rows]
    assert [record.labels for record in records] == [{"tools": [WEATHER]}] * 2
    (remark,) = [remark for remark in remarks if "null keys inside arguments" in remark["reason"]]
    assert remark["count"] == 2 and remark["where"] == "chat.parquet row 1"


DROPPED = [
    ({"messages": [U, {"content": "Ho"}]}, "a message has no role"),
    ({"messages": [U, {"role": "asistant", "content": "Ho"}]}, "unknown role: 'asistant'; did you mean 'assistant'"),
    ({"messages": [S, S, U, A]}, "two system messages"),
    ({"messages": [U, S, A]}, "a system message comes after other messages"),
    ({"messages": [U]}, "no assistant message"),
    ({"messages": [U, {**A, "content": " \u200b"}]}, "an answer is empty"),
    ({"messages": [U, {**A, "content": None}]}, "an answer is empty"),
    ({"messages": [{**U, "content": ""}, A]}, "a message of the role user is empty"),
    ({"messages": [U, {**A, "content": "a\0b"}]}, "the content of assistant holds a NUL character"),
    ({"messages": [U, {**A, "content": "a\x1b[0m"}]}, "the content of assistant holds a control character (U+001B)"),
    ({"messages": [U, {**A, "content": "\ud83d"}]}, "the content of assistant holds half of a character (U+D83D)"),
    ({"messages": [U, {**A, "content": 3}]}, "the content of assistant is not text (found: int)"),
    ({"messages": [{**U, "content": [{"type": "image_url"}]}, A]}, "the content of user has a part that is not read (type: image_url); only texts are"),
    ({"messages": [U, "Ho"]}, "a message is not a JSON object"),
    ({"messages": "Hi"}, "no messages"),
    ({"messages": []}, "no messages"),
    ({"messages": [U, {**A, "weight": 0}]}, "no message has a loss (every weight is 0)"),
    ({"messages": [U, {**A, "weight": 0.5}]}, "the weight of a message is neither 0 nor 1 (found: 0.5)"),
    ({"messages": [U, {**A, "weight": True}]}, "the weight of a message is neither 0 nor 1 (found: True)"),
    ({"messages": [{**U, "tool_calls": [call({})]}, A]}, "a message of the role user has tool calls"),
    ({"messages": [U, {**A, "tool_calls": [call('"{}"')]}]}, "the arguments of a tool call are JSON text inside JSON text"),
    ({"messages": [U, {**A, "tool_calls": [call("Rome")]}]}, "the arguments of a tool call cannot be read: not JSON (Expecting value)"),
    ({"messages": [U, {**A, "tool_calls": [call(["Rome"])]}]}, "the arguments of a tool call are not a JSON object (found: list)"),
    ({"messages": [U, {**A, "tool_calls": [call(None)]}]}, "the arguments of a tool call are not a JSON object (found: nothing)"),
    ({"messages": [U, {**A, "tool_calls": [{"function": {}}]}]}, "a tool call has no function with a name"),
    ({"messages": [U, {**A, "tool_calls": [call({}, id="a")]}, {"role": "tool", "content": "", "tool_call_id": "b"}, A]}, "a tool answers a call that was not made (tool_call_id: b)"),
    ({"messages": [U, A], "tools": "[{"}, "tools cannot be read"),
    ({"messages": [U, A], "tools": ["weather"]}, "tools has an entry that is no function schema with a name"),
    ({"messages": [U, A], "split": "tset"}, "unknown split: 'tset'; did you mean 'test'"),
    ({"text": "Hi"}, "no messages"),
]  # fmt: skip


def test_a_conversation_that_is_not_sound_is_dropped_with_its_line_and_reason(read):
    good = {"messages": [S, U, A]}
    records, dropped, _ = read(dropped=len(DROPPED), chat_jsonl=lines(good, *(row for row, _ in DROPPED)))
    assert len(records) == 1
    assert [item["where"] for item in dropped] == [f"chat.jsonl line {number}" for number in range(2, len(DROPPED) + 2)]
    for item, (row, reason) in zip(dropped, DROPPED, strict=True):
        assert item["reason"].startswith(reason), row


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "Hi", "output": None}, "an answer is empty"),
        ({"instruction": "", "input": " ", "output": "Ho"}, "a message of the role user is empty"),
        ({"instruction": ["Hi"], "output": "Ho"}, "instruction has a part that is not read (type: str); only texts are"),
        ({"instruction": "Hi", "output": "Ho", "history": [["Hi"]]}, "history is not a list of pairs of a question and an answer"),
    ],
)  # fmt: skip
def test_an_alpaca_row_that_is_not_sound_is_unusable(row, reason):
    with pytest.raises(Unusable, match=f"^{re.escape(reason)}$"):
        convert("alpaca", row)


def test_more_broken_rows_than_allowed_are_an_error_that_names_the_first(read):
    with pytest.raises(DataError, match=r"1 samples cannot be used .*: chat.jsonl line 2: not JSON"):
        read(chat_jsonl=lines({"messages": [U, A]}) + b'{"messages"\n')


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([{"text": "Hi", "label": 1}], "chat.jsonl: the keys text, label are no form of conversations; the forms are alpaca (instruction, output"),
        ([{"chosen": "a", "rejected": "b"}], "the keys chosen, rejected are no form"),
        ([{"messages": [U, A]}, {"instruction": "Hi", "output": "Ho"}], "chat.jsonl line 2: a row in the alpaca form in a file that begins in the OpenAI form; write one file for each form: alpaca ("),
        ([{"messages": [U, A]}] * 150 + [{"conversations": [{"from": "human", "value": "Hi"}]}], "chat.jsonl line 151: a row in the ShareGPT form in a file that begins in the OpenAI form"),
    ],
)  # fmt: skip
def test_a_file_of_no_form_or_of_two_is_one_line(read, rows, line):
    with pytest.raises(DataError) as refused:
        read(chat_jsonl=lines(*rows))
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_kept_and_said(read):
    row = {
        "messages": [{"role": "system", "content": ""}, U, {**A, "train": False}, U],
        "tools": json.dumps([WEATHER["function"]]),
    }
    records, _, remarks = read(chat_jsonl=lines(row))
    assert as_json(records[0].messages) == [U, A, U] and records[0].labels == {"tools": [WEATHER]}
    assert {remark["reason"] for remark in remarks} >= {
        "an empty system message is left out",
        "the key 'train' of a message is not read; write weight (0 or 1) to set its loss",
        "a conversation ends with a message of the role user, which has no loss",
        "a schema in tools is wrapped as {type: function, function: …}",
    }


def test_splits_come_from_the_column_then_from_file_names_and_equal_questions_share_one(read, project):
    pairs = [
        {"messages": [{**U, "content": f"Question {number % 50}"}, {**A, "content": f"Answer {number}"}]}
        for number in range(100)
    ]
    records = read(files={"chat.jsonl": lines(*pairs), "more.jsonl": lines(*pairs)})[0]
    splits = {(record.messages[0].content, record.split) for record in records}
    assert len(splits) == 50 and len({split for _, split in splits}) > 1
    named = {
        "train-00000-of-00001.jsonl": lines(*pairs[:9]),
        "valid.jsonl": lines(pairs[20]),
        "test/a.jsonl": lines(pairs[30], {**pairs[31], "split": "train"}, pairs[0]),
    }
    for file in (project.root / "own").iterdir():
        file.unlink()
    records, _, remarks = read(files=named)
    assert [record.split for record in records] == ["test", "train", "test", *["train"] * 9, "validation"]
    assert any(
        remark["reason"].startswith("a conversation has the user messages of one in another split")
        for remark in remarks
    )


ORCA = [
    {"id": "niv.242684", "system_prompt": "", "question": "Give a title.", "response": "A title"},
    {"id": "flan.564327", "system_prompt": "You are an AI assistant.", "question": "Write a sentence.", "response": "A sentence."},
    {"id": "t0.1791914", "system_prompt": "Think.", "question": "Empty?", "response": ""},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_defect_001_the_system_prompt_of_openorca_is_no_instruction(read, kind):
    """The document uses it as the instruction and the question as its input."""
    write = parquet if kind == "parquet" else lines
    files = {
        f"1M-GPT4-Augmented.{kind}": write(*ORCA * 20),
        f"3_5M-GPT3_5-Augmented.{kind}": write({**ORCA[1], "system_prompt": "Other.", "response": "Another."}),
    }
    records, dropped, _ = read("openorca", 20, files=files)
    assert as_json(records[0].messages) == [
        {"role": "user", "content": "Give a title."},
        {"role": "assistant", "content": "A title"},
    ]
    assert as_json(records[1].messages) == [
        {"role": "system", "content": "You are an AI assistant."},
        {"role": "user", "content": "Write a sentence."},
        {"role": "assistant", "content": "A sentence."},
    ]
    assert [message.loss_weight for message in records[1].messages] == [0, 0, 1]
    assert records[1].labels == {"id": "flan.564327", "collection": "flan"}
    assert records[0].key == "1M-GPT4-Augmented-00000001" and records[-1].key == "3_5M-GPT3_5-Augmented-00000001"
    assert records[-1].group == records[1].group != records[0].group
    assert {(item["reason"], item["where"].split()[-2]) for item in dropped} == {
        ("an answer is empty", "row" if kind == "parquet" else "line")
    }


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"a.parquet": parquet({"id": "1", "prompt": "a"})}, "a.parquet: missing column system_prompt; columns found: id, prompt; expected id, system_prompt, question, response"),
        ({"a.jsonl": lines({"messages": [U, A]})}, "a.jsonl: keys found: messages; expected id, system_prompt, question, response"),
        ({"a.csv": b"x"}, "datasets.chat.files: ** matches no .parquet .jsonl file (found: a.csv)"),
        ({"a.parquet": b"PAR1"}, "a.parquet: not a parquet file that can be read"),
    ],
)  # fmt: skip
def test_files_of_another_layout_are_one_line(read, files, line):
    with pytest.raises(DataError) as refused:
        read("openorca", files=files)
    assert line in str(refused.value) and "\n" not in str(refused.value)
