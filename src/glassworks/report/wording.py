"""What the report calls systems and metrics, in the order it shows them, and how it prints numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A column of the table of scores."""

    title: str
    explanation: str
    group: str
    drawn: bool = False
    """Whether it has a panel in the bar chart."""


@dataclass(frozen=True)
class System:
    """A row of the table of scores."""

    title: str
    explanation: str
    control: bool = False


REFERENCES, LABELS = "against the reference captions", "against the exact labels"
METRICS = {
    "cider": Metric("CIDEr-D", "n-grams shared with the references, by how telling they are", REFERENCES, True),
    "bleu1": Metric("BLEU-1", "precision of words over the whole split", REFERENCES),
    "bleu2": Metric("BLEU-2", "precision of words and pairs", REFERENCES),
    "bleu3": Metric("BLEU-3", "up to three words in a row", REFERENCES),
    "bleu4": Metric("BLEU-4", "up to four words in a row", REFERENCES, True),
    "rouge_l": Metric("ROUGE-L", "longest common subsequence with a reference", REFERENCES, True),
    "meteor": Metric("METEOR", "words shared with a reference, stems and synonyms too; mean over images", REFERENCES),
    "objects": Metric("Objects", "captions that name exactly the objects in the image", LABELS, True),
    "counts": Metric("Counts", "captions with the right objects that also count them right", LABELS),
    "relations": Metric("Relations", "captions that place objects, with every place right", LABELS, True),
    "ground": Metric("Ground", "captions that mention the background, with its colour and texture right", LABELS),
}
SYSTEMS = {
    "greedy": System("greedy", "the likeliest token at every step"),
    "beam": System("beam search", "the likeliest of several captions"),
    "blank": System("blank image", "what the model says when it sees nothing", control=True),
    "shuffled": System("shuffled images", "every image gets the caption of another one", control=True),
    "most_frequent": System("most frequent", "one training caption for every image", control=True),
}
BASELINES = {
    "gzip -9": "a compressor that looks back 32 kB",
    "xz -9": "a compressor that looks back through the whole split",
    "token bigram": "counts of pairs of the same tokens in the training split, Witten-Bell smoothing",
}


def system(name: str) -> System:
    """How to call a system; one this report does not know goes by its own name."""
    return SYSTEMS.get(name) or System(name.replace("_", " "), "")


def is_control(name: str) -> bool:
    """Whether a system is there to bound what a score means."""
    return system(name).control


def size(count: int) -> str:
    """Bytes as a person reads them: 812 B, 4.1 kB, 31.1 MB."""
    if count < 1000:
        return f"{count} B"
    value, units = float(count), iter(("kB", "MB", "GB", "TB"))
    while True:
        value, unit = value / 1000, next(units)
        if value < 999.95 or unit == "TB":
            return f"{value:,.1f} {unit}"


def magnitude(count: int) -> str:
    """A large count in three digits: 812, 1.28 M, 31.1 k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return str(count)


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 0.4 s, 41 s, 3 min 05 s, 1 h 02 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min"
