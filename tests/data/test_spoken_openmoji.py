"""The source `spoken_openmoji`: drawings, their names as speech, and the same bytes on every run."""

import io

import numpy as np
import pytest
import soundfile

from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.records import read_table
from glassworks.data.speech import Speaker, as_flac, resample

from .tiny_wheels import Drawing, write_wheels

APPLE = Drawing("1F34E", ":red_apple:", "red apple", (":apple:",), "food-and-drink", "food-fruit")
WAVES = [
    Drawing("1F44B", ":waving_hand:", "waving hand", (), "people-and-body", "hand-fingers-open"),
    Drawing("1F44B-1F3FB", ":waving_hand_light_skin_tone:", "waving hand: light skin tone", ()),
]


def build(project, **settings):
    spoken = {"source": "spoken_openmoji", "drawings": "openmoji", "size": 32, **settings}
    splits = {"validation": 0, "test": 0}
    openmoji = {"source": "openmoji", "splits": splits, "size": 32}
    project.configure({"datasets": {"openmoji": openmoji, "spoken": spoken}})
    for name in ("records-openmoji", "records-spoken"):
        project.run(name)
    return project.root / "data/records/spoken"


def test_a_name_is_spoken_beside_its_drawing_and_aliases_have_samples_of_their_own(project):
    write_wheels(project.root, [APPLE, *WAVES])
    records = list(read_table(build(project, aliases=True)))
    assert [(record.key, record.texts) for record in records] == [
        ("1f34e", ["red apple", "apple"]),
        ("1f34e-1", ["apple"]),
        ("1f44b", ["waving hand"]),
    ]
    assert records[0].group == records[1].group and 0.5 < records[0].sizes["flac"].seconds < 3
    project.run("shards-spoken")
    samples = list(ShardDataset(project.root / "data/shards/spoken", "train"))
    assert [sorted(sample.members) for sample in samples] == [
        ["flac", "json", "png"],
        ["flac", "json"],
        ["flac", "json", "png"],
    ]
    sound, rate = soundfile.read(io.BytesIO(samples[0].members["flac"]))
    assert rate == 16_000 and len(sound) / rate == records[0].sizes["flac"].seconds and np.abs(sound).max() > 0.05


def test_two_runs_and_any_number_of_jobs_give_the_same_bytes(project):
    write_wheels(project.root, [APPLE, *WAVES])
    first = (build(project, skin_tones=True) / "manifest.json").read_bytes()
    for job in range(2):
        project.run_job("shards-spoken", job)
    shards = (project.run("shards-spoken") / "manifest.json").read_bytes()
    for folder in ("records/spoken", "shards/spoken"):
        for path in sorted((project.root / "data" / folder).iterdir()):
            path.unlink()
        (project.root / "data" / folder).rmdir()
    assert (build(project, skin_tones=True) / "manifest.json").read_bytes() == first
    assert (project.run("shards-spoken") / "manifest.json").read_bytes() == shards


def test_speech_depends_on_key_seed_and_speed():
    plain = as_flac(Speaker("heart", 1.0, 0).speak("a", "red apple"))
    assert as_flac(Speaker("heart", 1.0, 0).speak("a", "red apple")) == plain
    for speaker, key in (
        (Speaker("heart", 1.0, 0), "b"),
        (Speaker("heart", 1.0, 1), "a"),
        (Speaker("heart", 1.5, 0), "a"),
    ):
        assert as_flac(speaker.speak(key, "red apple")) != plain
    assert not Speaker("heart", 1.0, 0).speak("a", "").any()


@pytest.mark.parametrize(("pitch", "kept"), [(440, 1.0), (6_000, 1.0), (9_000, 0.0), (11_500, 0.0)])
def test_resampling_keeps_what_the_lower_rate_can_hold(pitch, kept):
    """24 to 16 kHz: tones below 8 kHz stay as they are, tones above vanish."""
    tone = np.sin(2 * np.pi * pitch * np.arange(24_000) / 24_000)
    expected = kept * np.sin(2 * np.pi * pitch * np.arange(16_000) / 16_000)
    found = resample(tone, 2, 3)
    assert len(found) == 16_000 and np.abs(found - expected)[200:-200].max() < 1e-3
