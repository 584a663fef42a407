"""An artefact is whole or absent; its manifest says what it is and nothing else."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from glassworks.artifacts.digests import FileDigests, digest_json, sha256_file, write_text
from glassworks.artifacts.manifest import await_files, faults, is_whole, read_manifest
from glassworks.artifacts.publication import publish, seal
from glassworks.errors import ArtifactError


def staged(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_equal_content_means_an_equal_manifest(tmp_path):
    one, other = staged(tmp_path / "a", x="1", y="2"), staged(tmp_path / "b", y="2", x="1")
    seal(one, {"samples": 2}, {"key": "k1"})
    seal(other, {"samples": 2}, {"key": "k2"})
    assert (one / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


def test_publication_replaces_the_whole_directory(tmp_path):
    target = tmp_path / "data/thing"
    for name in ("old", "new"):
        work = staged(tmp_path / name, **{name: "x"})
        seal(work, {}, {})
        publish(work, target, tmp_path / "trash")
    assert sorted(p.name for p in target.iterdir()) == ["manifest.json", "new", "recipe.json"]
    assert not (tmp_path / "trash").exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "extra", "manifest"])
def test_every_kind_of_damage_is_found(tmp_path, damage):
    folder = staged(tmp_path / "a", x="hello", y="world")
    seal(folder, {}, {})
    assert list(faults(folder)) == []
    file = folder / "x"
    match damage:
        case "flip":
            file.write_bytes(b"hellp")
        case "truncate":
            file.write_bytes(b"hell")
        case "delete":
            file.unlink()
        case "extra":
            (folder / "stray").write_text("")
        case "manifest":
            (folder / "manifest.json").write_text("{")
    (line,) = faults(folder)
    assert {"extra": "stray", "manifest": "manifest.json"}.get(damage, "x") in line
    assert is_whole(folder) == (damage in ("flip", "extra"))  # sizes are checked always, digests on request


def test_a_missing_manifest_names_the_remedy(tmp_path):
    with pytest.raises(ArtifactError, match="snakemake"):
        read_manifest(tmp_path)


def test_a_full_disk_leaves_the_old_file_and_is_one_clear_line(tmp_path):
    """The file-size limit of the process stands in for a full disk: the kernel refuses the write in the same place."""
    file = tmp_path / "file.txt"
    write_text(file, "old")
    script = f"""
        import resource
        from pathlib import Path
        from glassworks.artifacts.digests import write_text
        from glassworks.errors import ResourceError
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_text(Path({str(file)!r}), "x" * 100_000)
        except ResourceError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "free some space" in run.stdout and len(run.stdout.splitlines()) == 1
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_digests_do_not_depend_on_key_order():
    assert digest_json({"a": 1, "b": [2]}) == digest_json(json.loads('{"b": [2], "a": 1}'))


def test_remembered_digests_notice_a_change_of_the_same_size(tmp_path):
    file, cache = tmp_path / "file", tmp_path / "cache.json"
    file.write_text("one")
    digests = FileDigests(cache)
    assert digests.sha256(file) == sha256_file(file)
    digests.save()
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert FileDigests(cache).sha256(file) == sha256_file(file)


def test_remembered_digests_do_not_trust_a_time_that_two_changes_may_share(tmp_path):
    file, cache = tmp_path / "file", tmp_path / "cache.json"
    file.write_text("one")
    digests, time = FileDigests(cache), file.stat().st_mtime_ns
    digests.sha256(file)
    digests.save()
    file.write_text("two")
    os.utime(file, ns=(time, time))
    assert FileDigests(cache).sha256(file) == sha256_file(file)


def test_files_that_come_into_view_after_their_manifest_are_waited_for(tmp_path, monkeypatch):
    folder = staged(tmp_path / "a", x="hello")
    seal(folder, {}, {})
    (folder / "x").rename(tmp_path / "x")
    late = subprocess.Popen(["sh", "-c", f"sleep 0.5; mv {tmp_path}/x {folder}/x"])
    await_files(folder)
    assert (folder / "x").read_text() == "hello" and late.wait() == 0
    monkeypatch.setattr("glassworks.artifacts.manifest.LATE_SECONDS", 0.3)
    (folder / "x").write_text("hell")
    with pytest.raises(ArtifactError, match="a/x: 4 bytes, the manifest says otherwise; make it again"):
        await_files(folder)
