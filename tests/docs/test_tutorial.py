"""docs/tutorial.md is a transcript: its commands run in a fresh clone and print what it shows. `--write-docs` writes outputs and pictures into docs/."""

import io
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from PIL import Image

from glassworks.cli import app

from ..demo.browser import CHROMIUM, Browser
from ..small_pipeline import REPOSITORY

PAGE = REPOSITORY / "docs/tutorial.md"
FENCED = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PICTURE_BYTES = 150_000
ADDRESS = "ADDRESS"
"""The repository, in `git clone`."""
VARYING = {
    "time of day": (r"\[\d\d:\d\d:\d\d\]", "[hh:mm:ss]"),
    "end of a stage that was slow enough to show progress": (r"(?m)^\S.* done in [\d:.]+s?\n", ""),
    "overfitting, which begins earlier or later": (r"(?m)^\S+: memorised: .*\n", ""),
    "duration": (r"Elapsed time: [\d:.]+", "Elapsed time: TIME"),
    "log of Snakemake": (r"\S*\.snakemake/log/\S+", ".snakemake/log/LOG"),
    "port": (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    "scores": (r"(CIDEr-D|BLEU-4) [\d.]+", r"\1 SCORE"),
    "space of a column": (r"  +", "  "),
}
"""What differs between two runs or two machines: pattern and replacement."""
MAKES = {
    r"examples/draw_scenes\.py (\w+)": ("{0}/001.png", "{0}/captions.csv", "{0}"),
    r"snakemake (\S+)": ("{0}",),
    r"glassworks preview (\w+)": ("preview-{0}.html",),
    r"glassworks new experiment (\w+)": ("experiments/{0}.yaml", "models/{0}"),
    r"glassworks caption \S+ \w+ --attention (\w+)": ("{0}", "{0}/"),
    r"make setup": (".venv", ".venv/bin/activate"),
    r"make all": ("results/report.html",),
}
"""Files that a command makes, by its pattern; an experiment leads to its model."""


@dataclass
class Block:
    """A fenced block of the page."""

    language: str
    file: str | None
    text: str

    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command with the lines that it prints."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        return found


def blocks(page: str) -> list[Block]:
    return [Block(*match.groups()) for match in FENCED.finditer(page)]


def commands_of(page: str) -> list[str]:
    """The commands of the blocks, then those in the text, in the order of the page."""
    found = []
    for match in re.finditer(r"^\$ (.+)$|(?<!`)`((?:glassworks|make|snakemake) [^`\n]+)`", page, re.MULTILINE):
        found.append(match[1] or match[2])
    return found


def normalised(lines: list[str]) -> list[str]:
    """The lines without what varies; in order of the alphabet, since jobs run side by side."""
    text = "\n".join(line.rstrip() for line in lines)
    for pattern, replacement in VARYING.values():
        text = re.sub(pattern, replacement, text)
    return sorted(text.splitlines())


# Checks of the text


def test_commands_have_only_verbs_options_and_targets_that_exist():
    targets = re.findall(r"^([a-z.-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    commands = commands_of(PAGE.read_text())
    assert len(commands) > 15
    for command in commands:
        program, *words = shlex.split(command)
        if program == "glassworks":
            verb = typer.main.get_command(app)
            while isinstance(verb, typer.core.TyperGroup):
                assert words and words[0] in verb.commands, command
                _, verb, words = verb.resolve_command(typer.Context(verb), words)
            options = {option for parameter in verb.params for option in parameter.opts}
            for word in words:
                assert not word.startswith("-") or word in options, f"{command}: {word}"
        elif program == "make":
            assert set(words) <= set(targets), command
        else:
            assert shutil.which(program) or program in ("source", "cd"), command


def test_files_exist_or_an_earlier_command_makes_them():
    page = PAGE.read_text()
    checked = 0
    for match in re.finditer(
        r"(?<![`\w])`([\w.-]*[\w]/[\w./-]*|[\w-]+\.\w+)`|title=\"([^\"]+)\"|^\$ (.+)$", page, re.MULTILINE
    ):
        named = [match[1] or match[2]] if not match[3] else re.findall(r"\S+/\S+", match[3])
        made = {
            file.format(*found.groups())
            for command in re.findall(r"^\$ (.+)$", page[: match.end()], re.MULTILINE)
            + (["make all"] if "make all" in page[: match.end()] else [])
            for pattern, files in MAKES.items()
            if (found := re.match(rf"(?:python )?{pattern}", command))
            for file in files
        }
        for file in named:
            checked += 1
            assert (REPOSITORY / file).exists() or file in made, f"{file}: nothing makes it"
    assert checked > 15


def test_pictures_are_there_and_small():
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", PAGE.read_text())
    assert len(pictures) == 4
    for words, file in pictures:
        content = (PAGE.parent / file).read_bytes()
        assert words and len(content) < PICTURE_BYTES, file
        with Image.open(io.BytesIO(content)) as image:
            assert image.width >= 600, file


# The transcript


class Session:
    """A shell in which the commands of the page run."""

    def __init__(self, start: Path, address: Path) -> None:
        self.start, self.address = start, address
        self.environment = {"HOME": str(start), "PATH": "/usr/local/bin:/usr/bin:/bin", "DVC_NO_ANALYTICS": "1"}
        self.environment |= {"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=start,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def clone(self) -> Path:
        return self.start / "glassworks"

    def run(self, command: str) -> list[str]:
        """The lines that a command prints."""
        assert self._shell.stdin and self._shell.stdout
        command = command.replace(ADDRESS, shlex.quote(str(self.address)))
        self._shell.stdin.write(f'{{ {command}\n}} < /dev/null; echo "[ended $?]"\n')
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            if ended := re.fullmatch(r"(.*)\[ended (\d+)\]\n", line):
                lines += [ended[1]] if ended[1] else []
                assert ended[2] == "0", "\n".join([command, *lines])
                if command.startswith("git clone"):
                    link_environment(self.clone)
                return [line for line in lines if not re.search(r" (left|it/s\])$", line)]
            lines.append(line.rstrip("\n").replace(f"{self.clone}/", "").replace(str(self.start), "~"))
        raise AssertionError(f"the shell has ended: {command}")

    def serve(self, command: str) -> Iterator[str]:
        """A server on a free port: its address, then at the end of the iteration nothing is left of it."""
        path = f"{self.clone}/.venv/bin:{self.environment['PATH']}"
        arguments = ["env", f"PATH={path}", *shlex.split(command), "--port", "0"]
        with subprocess.Popen(
            arguments, cwd=self.clone, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as server:
            assert server.stdout
            try:
                yield server.stdout.readline().rstrip()
                yield server.stdout.readline().rstrip()
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(60)

    def close(self) -> None:
        assert self._shell.stdin and self._shell.stdout
        self._shell.stdin.close()
        self._shell.stdout.close()
        self._shell.wait(60)


def link_environment(clone: Path) -> None:
    """Put the environment of the tests in place of the one that `make setup` would install."""
    venv = Path(sys.prefix)
    (clone / ".venv").mkdir()
    for part in venv.iterdir():
        (clone / ".venv" / part.name).symlink_to(part)
    (clone / ".venv/.ready").unlink(missing_ok=True)
    (clone / ".venv/.ready").touch()


def snapshot(folder: Path) -> Path:
    """A repository with the files of the working tree, edits included."""
    git = ["git", "-C", str(REPOSITORY)]
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file() and not name.startswith(".venv"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "the working tree"]):
        subprocess.run([*git, *arguments], check=True)
    return folder


def edit(file: Path, hunks: str) -> None:
    """Apply a diff without line numbers; hunks are separated by @@."""
    text = file.read_text()
    for hunk in hunks.split("@@\n"):
        old, new = (
            "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[0] in signs) for signs in (" -", " +")
        )
        assert text.count(old) == 1, f"{file.name} has not once:\n{old}"
        text = text.replace(old, new)
    file.write_text(text)


def store(request: pytest.FixtureRequest, name: str, png: bytes) -> None:
    """Make a picture of docs/figures, and with --write-docs write it; in any case it is small and no empty page."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    content = io.BytesIO()
    image.save(content, "WEBP", quality=82, method=6)
    assert len(content.getvalue()) < PICTURE_BYTES, name
    assert len(image.getcolors(1 << 24)) > 200, f"{name}: an empty page"
    if request.config.getoption("--write-docs"):
        (PAGE.parent / "figures" / name).write_bytes(content.getvalue())


def picture_of_demo(browser: Browser, url: str, image: Path) -> bytes:
    """The caption of an image, and the map of a word of it."""
    browser.open(url, 760, 800)
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    form = "[data-kind=caption]"
    chosen = browser.call("DOM.querySelector", nodeId=document, selector=f"{form} input[type=file]")
    browser.call("DOM.setFileInputFiles", nodeId=chosen["nodeId"], files=[str(image)])
    browser.run(f"document.querySelector('{form} .primary').click()")
    browser.wait(f"document.querySelector('{form} .status').textContent === 'Done.'")
    browser.run(f"document.querySelectorAll('{form} .words button')[1].click()")
    browser.wait(f"document.querySelector('{form} .drawn').naturalWidth === 480")
    top, bottom = browser.run(
        f"(one => [one.top + scrollY, one.bottom + scrollY])(document.querySelector('{form}').getBoundingClientRect())"
    )
    return cropped(browser, top, bottom)


def picture_of_page(browser: Browser, file: Path, first: str, last: str, height: int = 1200) -> bytes:
    """A page from the top of one element to the bottom of another, but at most `height` pixels; elements are expressions of JavaScript."""
    browser.open(file.as_uri(), 1000, 800)
    top, bottom = (
        browser.run(f"{element}.getBoundingClientRect().{side} + scrollY")
        for element, side in ((first, "top"), (last, "bottom"))
    )
    return cropped(browser, top, min(bottom, top + height))


def cropped(browser: Browser, top: float, bottom: float) -> bytes:
    shot, png = Image.open(io.BytesIO(browser.screenshot())), io.BytesIO()
    shot.crop((0, max(0, int(top) - 8), shot.width, min(shot.height, int(bottom) + 24))).save(png, "PNG")
    return png.getvalue()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_the_commands_print_what_the_page_shows(tmp_path, request):
    (tmp_path / "repository").mkdir()
    (tmp_path / "home").mkdir()
    session = Session(tmp_path / "home", snapshot(tmp_path / "repository"))
    browser = Browser(tmp_path / "chromium")
    page, differences = PAGE.read_text(), []
    try:
        for block in blocks(page):
            if block.language == "yaml":
                (session.clone / str(block.file)).write_text(block.text)
            elif block.language == "diff":
                edit(session.clone / str(block.file), block.text)
            else:
                written = ""
                for command, expected in block.commands():
                    if command.startswith("glassworks demo"):
                        server = session.serve(command)
                        url, note = next(server), next(server)
                        store(
                            request, "tutorial-demo.webp", picture_of_demo(browser, url, session.clone / "new/001.png")
                        )
                        server.close()
                        printed = [re.sub(r":\d+/", ":8642/", url), note]
                    else:
                        printed = session.run(command)
                    if normalised(printed) != normalised(expected):
                        differences.append((command, normalised(expected), normalised(printed)))
                    else:
                        printed = expected
                    written += "".join(f"{line}\n" for line in [f"$ {command}", *printed])
                page = page.replace(block.text, written)
        samples = "[...document.querySelectorAll('section')].find(one => one.querySelector('.gallery'))"
        store(
            request,
            "tutorial-report.webp",
            picture_of_page(
                browser, session.clone / "results/report.html", "document.body", "document.querySelector('table')"
            ),
        )
        store(
            request,
            "tutorial-preview.webp",
            picture_of_page(browser, session.clone / "preview-photos.html", samples, samples, 620),
        )
        for command in commands_of(page):
            for pattern, files in MAKES.items():
                if found := re.match(rf"(?:python )?{pattern}", command):
                    assert all((session.clone / file.format(*found.groups())).exists() for file in files), command
    finally:
        session.close()
        browser.close()
    if request.config.getoption("--write-docs"):
        PAGE.write_text(page)
    else:
        assert differences == []
