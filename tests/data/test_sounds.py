"""Sources of sounds on fixtures in the published layouts: formats, splits by speaker, and a reason for every sound that cannot be used."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from glassworks.data.reading.audio import decode_audio
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.records import read_table
from glassworks.errors import DataError


def sound(seconds=0.3, rate=16_000, channels=1, kind="FLAC", pitch=440.0):
    time = np.arange(round(seconds * rate)) / rate
    samples = np.repeat(0.4 * np.sin(2 * np.pi * pitch * time)[:, None], channels, axis=1)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype="VORBIS" if kind == "OGG" else None)
    return file.getvalue()


def write(folder, **files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def build(project, source, **settings):
    """The records of the data set in the folder `sounds`, and the folders of the artefacts."""
    project.configure({"datasets": {"sounds": {"path": "sounds", **settings, "source": source}}})
    for name in ("fetch-sounds", "records-sounds"):
        project.run(name)
    return list(read_table(project.root / "data/records/sounds"))


def listed(project, file):
    return [entry["reason"] for entry in json.loads((project.root / f"data/records/sounds/{file}.json").read_text())]


def test_audio_folder_reads_four_formats_and_keeps_a_speaker_in_one_split(project):
    kinds = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3", "ogg": "OGG"}
    rows = ["file,transcript,speaker"]
    for number in range(24):
        extension, kind = list(kinds.items())[number % 4]
        write(project.root / "sounds", **{f"{number:02d}.{extension}": sound(kind=kind, pitch=200 + number)})
        rows.append(f"{number:02d}.{extension},sentence {number},{'abcdef'[number % 6]}")
    write(project.root / "sounds", **{"captions.csv": "\n".join(rows)})
    records = build(project, "audio_folder", splits={"validation": 0.3, "test": 0.3}, samples_per_shard=8)
    assert [record.key for record in records] == [f"{number:02d}" for number in range(24)]
    assert {record.group for record in records} == set("abcdef") and records[3].texts == ["sentence 3"]
    assert len({record.split for record in records}) > 1
    for group in "abcdef":
        assert len({record.split for record in records if record.group == group}) == 1
    assert [next(iter(record.sizes)) for record in records[:4]] == list(kinds)
    assert all(size.seconds == pytest.approx(0.3, abs=0.05) for record in records for size in record.sizes.values())
    project.run("shards-sounds")
    samples = ShardDataset(project.root / "data/shards/sounds", "train")
    assert {extension for sample in samples for extension in sample.members} <= {*kinds, "json"}
    assert samples[0].json()["sizes"]


def test_every_unusable_sound_is_dropped_with_its_reason(project):
    whole = sound(2.0)
    files = {
        "good.flac": sound(),
        "empty.flac": b"",
        "silent.wav": sound(0.0, kind="WAV"),
        "noise.mp3": b"not a sound at all",
        "page.ogg": b"<!doctype html><html>404</html>",
        "cut.flac": whole[: len(whole) // 2],
        "stereo.wav": sound(rate=48_000, channels=2, kind="WAV"),
    }
    rows = [*(f"{name},a text" for name in files), "missing.wav,a text", "good.flac,again"]
    write(project.root / "sounds", **files, **{"captions.csv": "file,text\n" + "\n".join(rows)})
    records = build(project, "audio_folder", max_dropped=20)
    assert sorted(record.key for record in records) == ["good", "stereo"]
    reasons = listed(project, "dropped")
    for start in (
        "there is no file: missing.wav",
        "another row names the same file",
        "the audio does not decode: it is a web",
    ):
        assert any(reason.startswith(start) for reason in reasons), reasons
    assert sum(reason == "the audio is empty" for reason in reasons) == 2 and len(reasons) == 7
    assert "a sound of 48,000 Hz, stereo, is resampled to mono when it is read" in listed(project, "remarks")
    assert len(decode_audio(files["stereo.wav"], 16_000, "here")) == 4_800
    with pytest.raises(DataError, match=r"sounds: 7 samples cannot be used and datasets\.sounds\.max_dropped is 0"):
        build(project, "audio_folder")


def librispeech(root):
    lines = {
        "train-clean-100/103/1240": 2,
        "train-clean-100/19/198": 1,
        "dev-clean/84/121123": 1,
        "test-clean/61/70968": 1,
    }
    for folder, count in lines.items():
        _, speaker, chapter = folder.split("/")
        ids = [f"{speaker}-{chapter}-{number:04d}" for number in range(count)]
        write(root / "LibriSpeech" / folder, **{f"{name}.flac": sound(pitch=int(speaker) + 100) for name in ids})
        text = "".join(f"{name} CHAPTER ONE MISSUS RACHEL LYNDE\n" for name in ids)
        write(root / "LibriSpeech" / folder, **{f"{speaker}-{chapter}.trans.txt": text})
    speakers = "; comment\n;ID  |SEX| SUBSET | MINUTES| NAME\n103  | F | train-clean-100  | 25.10 | Someone\n"
    write(root / "LibriSpeech", **{"SPEAKERS.TXT": speakers, "README.TXT": "text"})


def test_librispeech_as_published(project):
    librispeech(project.root / "sounds")
    records = build(project, "librispeech")
    assert [(record.key, record.split, record.group) for record in records] == [
        ("84-121123-0000", "validation", "84"),
        ("61-70968-0000", "test", "61"),
        ("103-1240-0000", "train", "103"),
        ("103-1240-0001", "train", "103"),
        ("19-198-0000", "train", "19"),
    ]
    assert records[2].texts == ["CHAPTER ONE MISSUS RACHEL LYNDE"] and records[2].labels["sex"] == "F"
    assert [record.group for record in build(project, "librispeech", subsets=["train-clean-100"])] == [
        "103",
        "103",
        "19",
    ]
    with pytest.raises(
        DataError, match=r"subsets: there is no subset 'train-clean-10'; did you mean 'train-clean-100'\?"
    ):
        build(project, "librispeech", subsets=["train-clean-10"])


HEADER = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"


def test_common_voice_is_read_from_the_tarball_without_quoting(project):
    """A sentence may begin with a quotation mark that never closes."""
    sentences = {"train": ['"He said no.', "Two, three."], "dev": ["Third"], "test": ["Fourth", ""]}
    number = 0
    with tarfile.open(project.root / "sounds.tar.gz", "w:gz") as archive:

        def add(name, content):
            header = tarfile.TarInfo(f"cv-corpus-22.0-2025-06-20/en/{name}")
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))

        for table, texts in sentences.items():
            rows = [HEADER]
            for text in texts:
                clip, number = f"common_voice_en_{number}.mp3", number + 1
                add(f"clips/{clip}", sound(rate=48_000, kind="MP3", pitch=200 + number))
                rows.append(f"{table}-speaker\t{clip}\tid{number}\t{text}\t\t2\t0\ttwenties\t\t\t\ten\t")
            add(f"{table}.tsv", ("\n".join(rows) + "\n").encode())
    settings = {"path": "sounds.tar.gz", "max_dropped": 1}
    records = build(project, "common_voice", **settings)
    assert [(record.split, record.texts, record.group) for record in records] == [
        ("train", ['"He said no.'], "train-speaker"),
        ("train", ["Two, three."], "train-speaker"),
        ("validation", ["Third"], "dev-speaker"),
        ("test", ["Fourth"], "test-speaker"),
    ]
    assert records[0].labels == {
        "sentence_id": "id1",
        "up_votes": 2,
        "down_votes": 0,
        "age": "twenties",
        "locale": "en",
    }
    assert listed(project, "dropped") == ["no sentence"]
    with pytest.raises(DataError, match=r"no validated\.tsv in it"):
        build(project, "common_voice", splits={"test": 0.2}, **settings)
