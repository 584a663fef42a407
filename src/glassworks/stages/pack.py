"""The stage `pack`: the texts and messages of an experiment as token ids, and the plan of their rows. Jobs tokenize shards in parallel.

Each split has two folders of arrays, which all training workers map into memory.
"""

from typing import Any, NamedTuple

from glassworks.config.datasets import Split
from glassworks.config.needs import roles
from glassworks.config.packing import Packing
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.packing import PLAN, TOKENS, plan_rows
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import Tokens, join, tokenize
from glassworks.pipeline.execution import Context
from glassworks.progress import Progress


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
    splits, packing = _splits(context), Packing(**context.params["rows"])
    _tokenize(context, [shard for part in splits.values() for shard in part], context.stage.name)
    counts: dict[str, dict[str, Any]] = {}
    for (name, split), shards in splits.items():
        folder = context.output / name / split
        join([Tokens.load(context.work / TOKENS / shard.name) for shard in shards]).save(folder / TOKENS)
        tokens = Tokens.load(folder / TOKENS)
        plan = plan_rows(shards[0].dataset, tokens, packing)
        plan.save(folder / PLAN)
        found = {"documents": len(tokens.ends), "tokens": len(tokens.ids), "rows": len(plan.starts) - 1}
        counts.setdefault(name, {})[split] = found
    return counts


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
    tokenizer = TextTokenizer(context.inputs["tokenizer"])
    total, left = (sum(len(shard.samples) for shard in some) for some in (shards, missing))
    with Progress(label, total, "samples", initial=total - left) as progress:
        for shard in missing:
            tokenize(shard.dataset, tokenizer, shard.samples).save(folder / shard.name)
            progress.advance(len(shard.samples), shard.name)
