"""The page of `glassworks demo` beside the command line: time to the first piece of an answer, and memory after many hostile uploads.

    python benchmarks/demo.py MODEL [--project FOLDER] [--rounds 11] [--uploads 300]

MODEL is a language model with a chat template, such as models/sft_smollm2. Both sides have the same weights, one thread, and the same question: the
server in a process of its own over HTTP, and the conversation of `glassworks chat` in this process. They take turns, and who begins alternates; the
medians of all rounds are printed. Their first pieces are asserted to be equal. A first round, which fills caches, is not counted. The page is asked over
one connection that stays open, as a browser does.

Uploads are a decompression bomb, a cut image, 8 MiB of zeros, and a text, in turn, to the first panel that takes a file; without one, they are sent as
the file of a message, which is refused. The memory of the server (VmRSS) is read after a tenth of them, when caches are full, and at the end.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import httpx2
import torch
from PIL import Image

from glassworks.generation.settings import Decoding
from glassworks.inference.chat import Conversation

QUESTION = "What is the category of the emoji cat face?"
ENTRY = "import sys; sys.argv[0] = 'glassworks'; from glassworks.cli import main; main()"


def hostile() -> list[bytes]:
    """A bomb of 100 million pixels, a cut image, zeros, and a text."""
    bomb, picture = io.BytesIO(), io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    Image.new("RGB", (400, 300), (9, 99, 200)).save(picture, "PNG")
    return [bomb.getvalue(), picture.getvalue()[:-30], bytes(8 << 20), b"<script>alert(1)</script>"]


def events(
    client: httpx2.Client, url: str, panel: int, texts: dict[str, str], file: bytes | None = None
) -> tuple[float, str, list[dict]]:
    """Seconds to the first piece of text, that piece, and all events of an answer."""
    fields = {name: (None, text) for name, text in texts.items()}
    begin, first, piece, found = time.perf_counter(), 0.0, "", []
    files = {**fields, **({} if file is None else {"file": ("<img src=x>.png", file)})} or {"": (None, "")}
    with client.stream("POST", f"{url}/panels/{panel}", files=files, headers={"Origin": url}) as response:
        for line in response.iter_lines():
            found.append(json.loads(line))
            if not first and found[-1].get("text"):
                first, piece = time.perf_counter() - begin, found[-1]["text"]
    return first, piece, found


def resident(process: subprocess.Popen[str]) -> float:
    """Memory of a process in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--project", type=Path, default=Path.cwd())
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--uploads", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = [sys.executable, "-c", ENTRY, "demo", "--port", "0", str(given.model)]
    with (
        httpx2.Client(timeout=120) as client,
        subprocess.Popen(command, cwd=given.project, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().rstrip("/")
            talk = Conversation(given.project / given.model, Decoding(max_new_tokens=8), None, given.project)
            seconds: dict[str, list[float]] = {"page": [], "command": []}

            def page() -> tuple[float, str]:
                return events(client, url, 0, {"text": QUESTION, "max_new_tokens": "8"})[:2]

            def alone() -> tuple[float, str]:
                talk.reset()
                begin = time.perf_counter()
                answer = talk.answer(QUESTION)
                piece = next(answer)
                first = time.perf_counter() - begin
                for _ in answer:
                    pass
                return first, piece

            for number in range(given.rounds + 1):
                sides = {"page": page, "command": alone}
                order = list(sides) if number % 2 else list(sides)[::-1]
                found = {name: sides[name]() for name in order}
                assert found["page"][1] == found["command"][1], found
                if number:
                    for name, (first, _) in found.items():
                        seconds[name].append(first)
            ratios = [a / b for a, b in zip(seconds["page"], seconds["command"], strict=True)]
            medians = {name: statistics.median(values) * 1000 for name, values in seconds.items()}
            print(
                f"first piece: page {medians['page']:.0f} ms, command {medians['command']:.0f} ms, "
                f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f}), {given.rounds} rounds"
            )
            files, before = hostile(), 0.0
            for number in range(given.uploads):
                _, _, answer = events(client, url, 0, {}, files[number % len(files)])
                assert any("error" in event for event in answer), answer
                if number == given.uploads // 10:
                    before = resident(process)
            after = resident(process)
            print(
                f"memory: {before:.0f} MiB after {given.uploads // 10} uploads, {after:.0f} MiB after {given.uploads} ({after / before - 1:+.1%})"
            )
            assert page()[1] == alone()[1], "the server still answers"
        finally:
            process.kill()


if __name__ == "__main__":
    main()
