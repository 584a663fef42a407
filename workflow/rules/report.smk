# One HTML file that shows it all.


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
    log:
        "logs/report.log",
    resources:
        **pipeline.resources("report"),
    message:
        "Writing results/report.html"
    shell:
        "glassworks report --log {log}"
