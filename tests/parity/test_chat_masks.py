"""The derived masks against those that TRL 1.16 marks in its training templates, on every template that it ships for texts.

TRL is not in the lock. Install trl==1.16.0 and pytest into an environment of its own, and run this file there.
"""

import json
import re
from pathlib import Path

import pytest

from glassworks.data.reading.chat import ChatTemplate
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import DataError

from ..data.chats import CHATS, make_tokenizer, plain

trl = pytest.importorskip("trl", minversion="1.16", reason="trl 1.16 is not installed; see the docstring")
FOLDER = Path(trl.__file__).parent / "chat_templates"
MARKED = sorted(path for path in FOLDER.glob("*.jinja") if re.search(r"{%-?\s*generation\s*-?%}", path.read_text()))
"""The templates with marks. TRL has no training variant of Gemma 4."""
CUT = "\N{REPLACEMENT CHARACTER}"
"""The end of a text that ends within a character. transformers ends a mask with the first token of the last character, whatever its number of tokens."""
EMPTY = r"\s*<think>\s*</think>\s*"
"""Empty thinking tags: TRL gives them a loss, and a model learns not to think."""
HEADERS = {
    "qwen2_5": r"\n",
    "deepseek": r"<｜Assistant｜>|<｜tool▁outputs▁end｜>",
    "gptoss": r"<\|start\|>assistant",
    "muse_glimmer": r"<\|start\|>assistant",
    **dict.fromkeys(("nemotron_3", "qwen3_5_think", "qwen3_6", "qwen3_8"), r"<think>\n"),
}
"""The end of the generation prompt, by the beginning of the template's name. TRL gives it a loss, and no model ever generates it."""
DROPPED = {
    "thinking twice": ("diffusion_gemma", "glm4moe", "gptoss", "nemotron_3", "lfm2_2_5"),
    "two turns": ("gptoss",),
}
"""Conversations that these templates render differently once another message follows."""
UNFINISHED = {"a tool": ("diffusion_gemma",)}
"""After a tool this template writes a header that its generation prompt lacks, so the header has a loss here."""


def belongs(template: Path, names: tuple[str, ...]) -> bool:
    return template.stem.startswith(names) and not template.stem.startswith("qwen2_5_vl")


def extra(template: Path, text: str) -> int:
    """The number of characters at the beginning of a run of TRL's mask that are not generated."""
    header = next((found for name, found in HEADERS.items() if belongs(template, (name,))), "(?!)")
    match = re.match(rf"{EMPTY}|(?:{header})(?:{EMPTY})?", text)
    return match.end() if match else 0


def marked(template: Path, folder: Path, chat: str):
    """Ids, TRL's mask, and the ranges in it that are not generated. Skips conversations that the template refuses."""
    import jinja2
    from transformers import PreTrainedTokenizerFast

    messages, tools = CHATS[chat]
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    try:
        found = theirs.apply_chat_template(
            plain(messages),
            tools=tools,
            chat_template=ChatTemplate(template.read_text(), TextTokenizer(folder), "").dated,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    except jinja2.TemplateError as error:
        pytest.skip(f"the template refuses this conversation: {error}")
    ids, mask, ranges = found["input_ids"], found["assistant_masks"], []
    for begin in (number for number in range(len(ids)) if mask[number] and not (number and mask[number - 1])):
        end = next((number for number in range(begin, len(ids)) if not mask[number]), len(ids))
        while theirs.decode(ids[begin:end]).endswith(CUT):
            mask[end], end = 1, end + 1
        left = extra(template, theirs.decode(ids[begin:end]))
        while left > 0:
            size = len(theirs.decode([ids[begin]]))
            ranges.append([begin, begin + 1])
            begin, left = begin + 1, left - size
    return ids, mask, ranges


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", MARKED, ids=lambda path: path.stem)
def test_masks_equal_those_of_trl(tmp_path, template, chat):
    folder = make_tokenizer(tmp_path, template.read_text())
    ids, mask, ranges = marked(template, folder, chat)
    left_out = {begin for begin, _ in ranges}
    expected = [float(given and number not in left_out) for number, given in enumerate(mask)]
    plainer = template.with_stem(template.stem.removesuffix("_training"))
    for source in dict.fromkeys((template, plainer)):
        ours = ChatTemplate(source.read_text(), TextTokenizer(folder), "T")
        messages, tools = CHATS[chat]
        if belongs(template, DROPPED.get(chat, ())):
            with pytest.raises(DataError, match="differently once others follow"):
                ours.document(messages, tools)
            continue
        try:
            document = ours.document(messages, tools)
        except DataError as error:
            assert source == plainer and source != template, error  # an original that TRL had to change
            assert re.search(
                "differently once others follow|would never learn to stop|can only concatenate", str(error)
            )
            continue
        assert document.weights is not None and document.segments == [ids]
        if not belongs(template, UNFINISHED.get(chat, ())):
            assert document.weights[0] == expected


@pytest.mark.parametrize("name", json.loads((Path(__file__).parents[1] / "data/chat_masks.json").read_text()))
def test_the_recorded_masks_are_those_of_trl(tmp_path, name):
    golden = json.loads((Path(__file__).parents[1] / "data/chat_masks.json").read_text())[name]
    template = FOLDER / golden["template"].replace("qwen2_5.", "qwen2_5_training.")
    found = marked(template, make_tokenizer(tmp_path, template.read_text()), golden["chat"])
    assert found == (golden["ids"], golden["mask"], golden["not_generated"])
