# The pipeline, top to bottom: fetch raw files, make records, write shards, pack rows, train, evaluate, report.
#
# What there is to do (which data sets, which experiments, with which parameters) stands in params.yaml and experiments/. The stage table in
# src/glassworks/pipeline/ derives every stage from them; the rules below say how a stage of each kind is run, and ask the table what it reads.

import os
import sys

sys.path.insert(0, os.path.join(workflow.basedir, "src"))

from glassworks.pipeline.snakefile import Pipeline

pipeline = Pipeline(workflow, config)


# One image for every rule; used only with `--software-deployment-method apptainer`.
container: "docker://python:3.11-slim"


wildcard_constraints:
    dataset=pipeline.choices("fetch", "records", "shards"),
    experiment=pipeline.choices("tokenizer", "pack", "train", "evaluate"),
    weights=pipeline.choices("weights"),
    encoder=pipeline.choices("features"),
    evaluation=pipeline.evaluations(),
    job=r"\d{5}",


localrules:
    all,


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        pipeline.final_manifest,


include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"


onstart:
    pipeline.start()


onsuccess:
    pipeline.record()
