"""`glassworks generate`: continuations of prompts by a language model."""

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from glassworks.errors import DataError
from glassworks.generation.decoding import generate, stream
from glassworks.generation.settings import Decoding
from glassworks.generation.text import TextStream, continuation
from glassworks.inference.language_models import open_language_model

BATCH = 16
"""Texts decoded at a time. Does not affect the texts."""


class Writer:
    """A language model and its tokenizer."""

    def __init__(self, directory: Path, project: Path, base: Path | None = None, merge: bool = False) -> None:
        """`directory` holds a model trained here, a model in the layout of transformers, or an adapter of either (`open_language_model`)."""
        self.directory, self.opened = directory, open_language_model(directory, project, base, merge)
        self.model, self.tokenizer = self.opened.model, self.opened.tokenizer

    def encode(self, prompt: str) -> list[int]:
        """The token ids of a prompt. An empty prompt starts a new text with BOS; raises `DataError` if the tokenizer has no BOS.

        A model trained here reads BOS first, unless it has a chat template, which writes BOS itself. A published one reads the special tokens of its
        tokenizer's template: Llama's puts BOS before every text, GPT-2's and SmolLM2's put nothing.
        """
        if self.opened.trained_here:
            begun = self.tokenizer.begin(prompt)
            ids = begun if self.opened.adds_bos else begun[1:]
        else:
            ids = self.tokenizer.prompt(prompt)
        if not ids and not self.tokenizer.has_bos:
            raise DataError(
                f"the prompt is empty, and the tokenizer of {self.directory} names no BOS to begin with; write at least a word"
            )
        return ids or [self.tokenizer.bos]

    def write(
        self, prompts: list[str], settings: Decoding, samples: int = 1
    ) -> Iterator[tuple[str, int, list[int], str]]:
        """`samples` texts for each prompt, each as (prompt, number of the text, new token ids, their text)."""
        encoded = [self.encode(prompt) for prompt in prompts]
        wanted = [(index, number) for index in range(len(prompts)) for number in range(samples)]
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            texts = generate(
                self.model,
                [encoded[index] for index, _ in part],
                settings,
                self.tokenizer.ends,
                [number for _, number in part],
            )
            for (index, number), ids in zip(part, texts, strict=True):
                yield prompts[index], number, ids, continuation(self.tokenizer, encoded[index], ids)

    def pieces(self, prompt: str, settings: Decoding) -> Iterator[str]:
        """The continuation of a prompt, streamed in pieces of text."""
        ids = self.encode(prompt)
        text = TextStream(self.tokenizer.text, self.tokenizer.settled, ids)
        for step in stream(self.model, [ids], settings, self.tokenizer.ends):
            for _, token in step:
                yield text.add(token)
        yield text.end()


def run(
    directory: Path,
    prompts: list[str],
    settings: Decoding,
    samples: int,
    as_json: bool,
    show: Callable[[str], None],
    project: Path,
    base: Path | None = None,
    merge: bool = False,
) -> None:
    """Continue the prompts and pass the texts to `show`: a single text is streamed, several follow one another, JSON is one object per line."""
    writer = Writer(directory, project, base, merge)
    if len(prompts) == samples == 1 and not as_json:
        pieces = writer.pieces(prompts[0], settings)
        first = next(pieces)  # an invalid prompt raises here, before any output
        for piece in chain([prompts[0], first], pieces, ["\n"]):
            show(piece)
        return
    for index, (prompt, number, ids, text) in enumerate(writer.write(prompts, settings, samples)):
        if as_json:
            row = {"prompt": prompt, "number": number, "text": text, "tokens": len(ids)}
            show(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            show(("\n" if index else "") + prompt + text + "\n")


def read_prompts(prompts: list[str], file: Path | None, stdin: Callable[[], str]) -> list[str]:
    """The prompts of the command line, then those of a file, one per line; `-` is standard input. One empty prompt if there are none."""
    if file is None:
        return prompts or [""]
    try:
        text = stdin() if str(file) == "-" else file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file of prompts") from None
    except IsADirectoryError:
        raise DataError(f"{file}: a folder, not a file of prompts") from None
    except UnicodeDecodeError:
        raise DataError(f"{file}: not UTF-8 text; prompts stand one a line") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines and not prompts:
        raise DataError(f"{file}: no prompts there; write one a line")
    return prompts + lines
