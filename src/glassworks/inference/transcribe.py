"""`glassworks transcribe`: the text of each sound or image, by a fused decoder and the tower that it was trained with."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.sounds import sound_extension
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.encoders.protocol import stack
from glassworks.encoders.tower import Tower
from glassworks.errors import ArtifactError, DataError
from glassworks.generation.decoding import decode_fused
from glassworks.generation.settings import Decoding
from glassworks.inference.model_folders import find_model, find_tokenizer, find_tower
from glassworks.inference.retrieve import WORDS, Query, read_query, remarks
from glassworks.models.fused_decoder import KIND
from glassworks.models.pretrained.fused_decoder import load_fused_decoder


class Transcriber:
    """A fused decoder, its tokenizer, and the towers of the queries so far."""

    def __init__(self, directory: Path, project: Path) -> None:
        if find_model(directory, project).get("model") != KIND:
            raise ArtifactError(f"{directory}: this model transcribes nothing; the task fusion trains those that do")
        self.directory, self.tokenizer = directory, TextTokenizer(find_tokenizer(directory))
        self.model = load_fused_decoder(directory).eval()
        check_vocabulary(self.tokenizer, self.model.vocabulary, directory)
        self.towers: dict[str, Tower] = {}

    def tower(self, query: Query) -> Tower:
        """The tower for a query. Raises `DataError` for a modality that the model lacks."""
        name = query.modality
        if name not in self.model.towers:
            known = " and ".join(WORDS[name] for name in self.model.towers)
            raise DataError(f"{query.where}: {self.directory} has no tower for {WORDS[name]}; it reads {known}")
        if name not in self.towers:
            self.towers[name] = find_tower(self.directory, self.model.towers[name])
        return self.towers[name]

    def transcribe(self, query: Query, settings: Decoding) -> str:
        """The text of a query."""
        longest = self.model.config.text_tokens - 1
        settings = settings.model_copy(update={"max_new_tokens": min(settings.max_new_tokens or longest, longest)})
        tower = self.tower(query)
        views = {extension: memoryview(content) for extension, content in query.members.items()}
        reading = tower.read(Sample("query", views, query.where))
        assert reading is not None
        known = {**tower.features(stack([reading])), "present": torch.tensor([True])}
        features = {name: known if name == query.modality else _missing(one) for name, one in self.model.towers.items()}
        ids = decode_fused(self.model, features, settings, self.tokenizer.bos, self.tokenizer.ends)[0]
        return self.tokenizer.decode(ids)


def run(
    directory: Path,
    files: Sequence[Path],
    settings: Decoding,
    as_json: bool,
    show: Callable[[str], None],
    note: Callable[[str], None],
    project: Path,
) -> None:
    """Pass a line or a JSON object for each file to `show`, and remarks about sounds to `note`. Each file is a sample of one modality."""
    queries = [_read(file) for file in files]
    transcriber = Transcriber(directory, project)
    for query in queries:
        transcriber.tower(query)
    for query in queries:
        for remark in remarks(query, transcriber.tower(query)):
            note(remark)
        text = transcriber.transcribe(query, settings)
        if as_json:
            show(json.dumps({"file": query.where, "text": text}, ensure_ascii=False) + "\n")
        else:
            show(f"{query.where}: {' '.join(text.split())}\n")


def _read(file: Path) -> Query:
    """A file as a sound, if its content is one, or else as an image."""
    try:
        spoken = sound_extension(file.read_bytes()) is not None
    except OSError as error:
        raise DataError(f"{file}: not readable ({error.strerror})") from None
    return read_query(None, None, file) if spoken else read_query(None, file, None)


def _missing(described: Mapping[str, Any]) -> dict[str, Tensor]:
    """The features of a sample that lacks a modality."""
    shape = [1, described["width"]] if described["settings"]["pooling"] == "mean" else [1, 1, described["width"]]
    mask = torch.zeros(1, 1, dtype=torch.bool)
    return {"features": torch.zeros(shape), "mask": mask, "present": mask[0]}
