# A trained model and held-out shards -> metrics, labels and items.


rule evaluate:
    input:
        pipeline.inputs("evaluate"),
    output:
        "results/{experiment}/{evaluation}/manifest.json",
    log:
        "logs/evaluate-{experiment}-{evaluation}.log",
    threads: pipeline.threads("evaluate")
    resources:
        **pipeline.resources("evaluate"),
    message:
        "Evaluating {wildcards.experiment}: {wildcards.evaluation}"
    shell:
        "glassworks evaluate {wildcards.experiment} {wildcards.evaluation} --threads {threads} --log {log}"
