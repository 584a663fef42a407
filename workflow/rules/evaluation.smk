# Scores on held-out data, beside controls.


rule evaluate:
    input:
        pipeline.inputs("evaluate"),
    output:
        "results/{experiment}/manifest.json",
    log:
        "logs/evaluate-{experiment}.log",
    threads: pipeline.threads("evaluate")
    resources:
        **pipeline.resources("evaluate"),
    message:
        "Evaluating {wildcards.experiment}"
    shell:
        "glassworks evaluate {wildcards.experiment} --threads {threads} --log {log}"
