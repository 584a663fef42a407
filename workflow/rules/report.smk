# All artefacts above -> one HTML file.


rule report:
    input:
        pipeline.inputs("report"),
    output:
        "results/report/manifest.json",
        report(
            "results/report/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
        report(
            "results/report/loss.svg",
            caption="../report/loss.rst",
            category="Figures",
        ),
        report(
            "results/report/metrics.svg",
            caption="../report/metrics.rst",
            category="Figures",
        ),
    log:
        "logs/report.log",
    resources:
        **pipeline.resources("report"),
    message:
        "Writing results/report.html"
    shell:
        "glassworks report --log {log}"
