# Shards, tokenizer, weights and other models -> a trained model. Checkpoints are in .work/, so a killed run continues.


rule train:
    input:
        pipeline.inputs("train"),
    output:
        "models/{experiment}/manifest.json",
    log:
        "logs/train-{experiment}.log",
    threads: pipeline.threads("train")
    resources:
        **pipeline.resources("train"),
    params:
        launcher=pipeline.launcher("train"),
    message:
        "Training {wildcards.experiment}"
    shell:
        "{params.launcher}glassworks train {wildcards.experiment} --threads {threads} --log {log}"
