"""The stage `pack`: the texts and messages of an experiment as token ids, and the plan of their rows. Jobs tokenize shards in parallel.

Each split has two folders of arrays, which all training workers map into memory. Packed conversations come with their chat template and, for the report,
with the text of some rows. So do rows with images, which have no template.
"""

import sys
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np

from glassworks.artifacts.digests import write_json, write_text
from glassworks.config.datasets import Split
from glassworks.config.needs import roles
from glassworks.config.packing import FRAME_END, FRAME_PATCH, IMAGE_END, IMAGE_PATCH, TILE_PATCH, TILES_END, Packing
from glassworks.data.reading.chat import ChatTemplate, read_template
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.extended import open_tokenizer_of
from glassworks.data.reading.joined_tokens import join_saved
from glassworks.data.reading.packing import PLAN, TOKENS, Plan, plan_rows, too_long
from glassworks.data.reading.text import TEMPLATE, TextTokenizer
from glassworks.data.reading.tokens import Tokens, image_chat, tokenize
from glassworks.errors import ConfigError, DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import Progress

ROWS, SHOWN = "rows.json", 20
"""File of the rows that the report shows, and their number."""
PATCHES = {IMAGE_PATCH: "image", FRAME_PATCH: "frame", TILE_PATCH: "tiles"}
ENDS = {IMAGE_END: "image", FRAME_END: "frame", TILES_END: "tiles"}
"""The patch tokens and the last token of each kind of picture."""
Runs = list[tuple[str, float]]
"""Text of a conversation, or of a context or a branch, cut where the weight of the loss changes: text and weight."""


class Shard(NamedTuple):
    """A shard to tokenize."""

    name: str
    dataset: ShardDataset
    samples: range
    """Its samples in the split."""


def run_job(context: Context, job: int) -> dict[str, Any]:
    """Tokenize the shards of job `job` in the work directory. Those of an interrupted run are kept."""
    shards, jobs = [shard for part in _splits(context).values() for shard in part], context.stage.jobs
    mine = shards[len(shards) * job // jobs : len(shards) * (job + 1) // jobs]
    _tokenize(context, mine, f"{context.stage.name} job {job}")
    return {"shards": [shard.name for shard in mine]}


def run(context: Context) -> dict[str, Any]:
    """The documents, tokens and rows of every split. Tokenizes the shards that no job has tokenized, and plans the rows."""
    splits, packing = _splits(context), Packing.model_validate(context.params["rows"])
    tokenizer = open_tokenizer_of(context.inputs["tokenizer"], packing)
    template = _template(context, packing, tokenizer)
    _tokenize(context, [shard for part in splits.values() for shard in part], context.stage.name)
    counts: dict[str, dict[str, Any]] = {}
    shown: dict[str, list[dict[str, Any]]] = {}
    for (name, split), shards in splits.items():
        folder = context.output / name / split
        join_saved([context.work / TOKENS / shard.name for shard in shards], folder / TOKENS)
        tokens = Tokens.load(folder / TOKENS)
        plan = plan_rows(shards[0].dataset, tokens, packing)
        plan.save(folder / PLAN)
        found = {"documents": len(tokens.ends), "tokens": len(tokens.ids), "rows": len(plan.starts) - 1}
        if template or packing.images:
            found |= _count(context, f"the {split} split of {name!r}", tokens, packing)
            if split == "train":
                shown[name] = _shown(tokens, plan, packing.row_tokens, tokenizer)
        counts.setdefault(name, {})[split] = found
    if template:
        write_text(context.output / TEMPLATE, template.source)
    if template or packing.images:
        write_json(context.output / ROWS, shown)
    return counts


def _template(context: Context, packing: Packing, tokenizer: TextTokenizer) -> ChatTemplate | None:
    """The chat template of the experiment; None if its task uses none."""
    if packing.chat is None:
        return None
    if packing.chat.template is not None:
        source = read_template(context.local_path)
        found: ChatTemplate | None = ChatTemplate(source, tokenizer, packing.chat.template, packing.chat.supervise)
    else:
        found = ChatTemplate.of(context.inputs["tokenizer"], tokenizer, packing.chat.supervise)
    if found is None:
        raise ConfigError(
            f"data.template: the tokenizer in {context.inputs['tokenizer']} comes with no chat template; name a .jinja file of the project"
        )
    found.check()
    return found


def _count(context: Context, where: str, tokens: Tokens, packing: Packing) -> dict[str, int]:
    """Supervised tokens and dropped conversations of a split, with a line about the latter. Raises `DataError` if none is left."""
    over, sizes = too_long(tokens, packing), tokens.inputs()
    if count := int(over.sum()):
        longest = int(sizes[over].max())
        told = f"{count:,} of {len(over):,} conversations of {where} are longer than a row of {packing.row_tokens:,} tokens (up to {longest:,})"
        if count == len(over):
            raise DataError(f"{context.stage.name}: all {told}; raise model.max_tokens")
        print(f"{context.stage.name}: dropped {told}", file=sys.stderr, flush=True)
    kept = np.repeat(~over, np.diff(tokens.ends, prepend=0))
    supervised = kept.sum() if tokens.weights is None else ((tokens.weights != 0) & kept).sum()
    return {"supervised": int(supervised), "dropped": count}


def _shown(tokens: Tokens, plan: Plan, row_tokens: int, tokenizer: TextTokenizer) -> list[dict[str, Any]]:
    """Some rows, evenly spread: number, conversations, and positions that hold padding."""
    count = len(plan.starts) - 1
    numbers = dict.fromkeys(number * count // SHOWN for number in range(SHOWN)) if count else {}
    return [
        {
            "row": number,
            "padding": row_tokens - int(plan.row(number)[:, 2].sum()),
            "texts": [runs for item in plan.row(number) for runs in _runs(tokens, item.tolist(), tokenizer)],
        }
        for number in numbers
    ]


def _runs(tokens: Tokens, item: list[int], tokenizer: TextTokenizer) -> list[Runs]:
    document, start, length = item
    first, *ends = tokens.bounds(document)
    parts = [(first + start, first + start + length + 1)] if len(ends) == 1 else list(pairwise([first, *ends]))
    found: list[Runs] = []
    for number, (begin, end) in enumerate(parts):
        begin += number > 0  # a branch begins with a copy of the last token of the context
        weights = [1.0] * (end - begin) if tokens.weights is None else tokens.weights[begin:end].tolist()
        pairs = zip(tokens.ids[begin:end].tolist(), weights, strict=True)
        cut = [(weight, [number for number, _ in some]) for weight, some in groupby(pairs, key=lambda pair: pair[1])]
        found.append([(_text(ids, tokenizer), weight) for weight, ids in cut])
    return found


def _text(ids: list[int], tokenizer: TextTokenizer) -> str:
    """The text of ids with special tokens, and the number of patch tokens of each image, of its tiles and of each frame."""
    found, special = "", dict.fromkeys(PATCHES.values(), 0)
    for number, run in groupby(ids, key=lambda number: min(number, 0)):
        part = list(run)
        if number == 0:
            found += tokenizer.shown(part)
        elif number in PATCHES:
            special[PATCHES[number]] += len(part)
        elif number in ENDS:
            found += f"[{ENDS[number]}: {special[ENDS[number]]} tokens]"
            special[ENDS[number]] = 0
    return found


def _splits(context: Context) -> dict[tuple[str, Split], list[Shard]]:
    """The shards of every split that has samples."""
    wanted: dict[str, list[Split]] = context.params["splits"]
    inputs = roles("shards", wanted)
    found: dict[tuple[str, Split], list[Shard]] = {}
    for name, splits in wanted.items():
        for split in splits:
            dataset = ShardDataset(context.inputs[inputs[name]], split, verify="first_touch")
            parts = [range(end - size, end) for size, end in zip(dataset.shard_sizes, dataset.ends, strict=True)]
            shards = [Shard(f"{name}-{split}-{index:05d}", dataset, part) for index, part in enumerate(parts)]
            if shards:
                found[name, split] = shards
    return found


def _tokenize(context: Context, shards: list[Shard], label: str) -> None:
    folder = context.work / TOKENS
    missing = [shard for shard in shards if not (folder / shard.name).is_dir()]
    if not missing:
        return
    packing = Packing.model_validate(context.params["rows"])
    tokenizer = open_tokenizer_of(context.inputs["tokenizer"], packing)
    template = _template(context, packing, tokenizer)
    chat = template.chat if template else image_chat(tokenizer, packing.images)
    total, left = (sum(len(shard.samples) for shard in some) for some in (shards, missing))
    with Progress(label, total, "samples", initial=total - left) as progress:
        for shard in missing:
            tokenize(shard.dataset, tokenizer, shard.samples, chat).save(folder / shard.name)
            progress.advance(len(shard.samples), shard.name)
