"""The stage `shards`: WebDataset tars with sidecars from records and their media. Jobs build contiguous blocks in parallel."""

import json
from array import array
from typing import Any

from glassworks.artifacts.digests import write_json
from glassworks.config.datasets import SPLITS, Split
from glassworks.data.records import RecordTable, Rows
from glassworks.data.shards import Plan, adopt_tar, is_complete, link_or_copy, write_tar
from glassworks.data.sidecars import INDEX, read_head
from glassworks.pipeline.execution import Context
from glassworks.progress import Progress
from glassworks.sources.protocol import TarSource, load_source


def run_job(context: Context, job: int) -> dict[str, Any]:
    """The shards of job `job`, built in the work directory. Complete shards of an interrupted run are kept."""
    plans = plan_shards(context)
    jobs = context.stage.jobs
    mine = plans[len(plans) * job // jobs : len(plans) * (job + 1) // jobs]
    build(context, mine, f"{context.stage.name} job {job}")
    return {"shards": [plan.name for plan in mine], "samples": sum(len(plan.records) for plan in mine)}


def run(context: Context) -> dict[str, Any]:
    """The counts of the artefact. Builds the shards that no job has built, and collects all."""
    plans = plan_shards(context)
    build(context, plans, context.stage.name)
    folder = context.work / "shards"
    listed: list[dict[str, Any]] = []
    for plan in plans:
        tar, sha256, size, count = read_head(folder / f"{plan.name}.json")
        listed.append({"tar": tar, "split": plan.split, "samples": count, "sha256": sha256, "size": size})
        for name in (f"{plan.name}.tar", f"{plan.name}.json"):
            link_or_copy(folder / name, context.output / name)
    write_json(context.output / INDEX, {"shards": listed})
    samples = {split: sum(shard["samples"] for shard in listed if shard["split"] == split) for split in SPLITS}
    return {"samples": samples, "shards": len(listed), "bytes": sum(shard["size"] for shard in listed)}


def plan_shards(context: Context) -> list[Plan]:
    """All shards of the data set, split by split: `samples_per_shard` records each, or one shard per existing tar."""
    ready_made = isinstance(load_source(context.params["source"]), TarSource)
    table = RecordTable(context.inputs["records"])
    by_tar: dict[Split, dict[str | None, array[int]]] = {split: {} for split in SPLITS}
    for number, (split, media) in enumerate(table.columns("split", "media")):
        tar = json.loads(media)["tar"] if ready_made else None
        by_tar[split].setdefault(tar, array("q")).append(number)
    plans = []
    for split, tars in by_tar.items():
        parts = []
        for tar, rows in tars.items():
            size = context.params["samples_per_shard"] if tar is None else len(rows)
            parts += [(tar, rows[start : start + size]) for start in range(0, len(rows), size)]
        plans += [
            Plan(f"{split}-{index:05d}", split, Rows(table, part), tar) for index, (tar, part) in enumerate(parts)
        ]
    return plans


def build(context: Context, plans: list[Plan], label: str) -> None:
    """Build the incomplete shards of `plans` in the work directory. A tar is renamed last, after its sidecar."""
    folder = context.work / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [plan for plan in plans if not is_complete(folder, plan)]
    if not missing:
        return
    source = load_source(context.params["source"])
    total, left = (sum(len(plan.records) for plan in some) for some in (plans, missing))
    with Progress(label, total, "samples", initial=total - left) as progress:
        if isinstance(source, TarSource):
            ready_made = source.ready_made(context)
            for plan in missing:
                adopt_tar(folder, plan, ready_made)
                progress.advance(len(plan.records), plan.name)
        else:
            media = source.media(context)
            for plan in missing:
                for _ in write_tar(folder, plan, media):
                    progress.advance(1, plan.name)
