"""Versions in a remote: pushed from here, pulled into a fresh clone, where neither entrance has anything to do; and one line for what goes wrong."""

import hashlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests

from ..small_pipeline import STAGES, Repository
from .test_two_entrances import assert_both_idle


def add_remote(repository: Repository, url: str) -> None:
    repository.command("dvc", "remote", "add", "--default", "store", url)
    repository.commit("a remote")


def pushed_and_cloned(repository: Repository, tmp_path: Path) -> Repository:
    """A clone of the repository after a push, with its own code and nothing pulled."""
    assert "files sent" in repository.command("glassworks", "push").stdout
    subprocess.run(["git", "clone", "--quiet", repository.root, tmp_path / "clone"], check=True)
    clone = Repository(tmp_path / "clone")
    clone.environment = repository.environment | {"PYTHONPATH": clone.environment["PYTHONPATH"]}
    return clone


def half_written(store: Path) -> list[Path]:
    """Files in a remote that do not have the content their name promises. DVC names what is not finished `.*.tmp`."""
    files = [path for path in (store / "files/md5").rglob("*") if path.is_file() and path.suffix != ".tmp"]
    assert files
    return [
        path
        for path in files
        if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != path.parent.name + path.stem
    ]


def test_a_fresh_clone_after_a_pull_has_nothing_to_do(repository, tmp_path):
    add_remote(repository, str(tmp_path / "store"))
    clone = pushed_and_cloned(repository, tmp_path)
    assert f"{len(STAGES)} of {len(STAGES)} stages are fresh" in clone.command("glassworks", "pull").stdout
    assert (clone.root / "results/report.html").is_file()
    assert_both_idle(clone)
    assert clone.manifests() == repository.manifests()


@pytest.fixture
def sshd(tmp_path):
    """An SSH server on loopback with keys of its own, and a home folder whose owner may enter; gives the port and that folder."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("there is no sshd here (Debian's package is openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where its unprivileged half is locked in
    home = tmp_path / "home/.ssh"
    home.mkdir(parents=True)
    for key in (home / "id_ed25519", tmp_path / "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host_key = (tmp_path / "host_key.pub").read_text()
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": tmp_path / "host_key",
        "AuthorizedKeysFile": home / "id_ed25519.pub",
        "StrictModes": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    (tmp_path / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    with (tmp_path / "sshd.log").open("w") as log:
        server = subprocess.Popen([program, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=log)
    try:
        while server.poll() is None and "listening" not in (tmp_path / "sshd.log").read_text():
            time.sleep(0.02)
        assert server.poll() is None, (tmp_path / "sshd.log").read_text()
        yield port, home.parent
    finally:
        server.terminate()
        server.wait()


def test_the_same_over_ssh(repository, tmp_path, sshd):
    port, repository.environment["HOME"] = sshd[0], str(sshd[1])
    add_remote(repository, f"ssh://127.0.0.1:{port}{tmp_path}/store")
    clone = pushed_and_cloned(repository, tmp_path)
    assert not half_written(tmp_path / "store")
    assert f"{len(STAGES)} of {len(STAGES)} stages are fresh" in clone.command("glassworks", "pull").stdout
    assert clone.manifests() == repository.manifests()
    assert clone.pending() == set() and clone.dvc_is_clean()


@pytest.fixture
def s3(tmp_path):
    """Starts an S3 server on loopback and makes a bucket in it; gives its address, and what ends it. moto's, which keeps objects in memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = ["moto_server", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "s3.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not answers(f"{address}/moto-api/"):
            assert server.poll() is None, (tmp_path / "s3.log").read_text()
            time.sleep(0.05)
        requests.put(f"{address}/bucket", timeout=10).raise_for_status()
        yield address, server.kill
    finally:
        server.kill()
        server.wait()


def answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=10).ok
    except requests.ConnectionError:
        return False


def add_s3_remote(repository: Repository, address: str, bucket: str = "bucket") -> None:
    """As docs/how-to/remotes.md has it."""
    add_remote(repository, f"s3://{bucket}/folder")
    for name, value in {"region": "eu-central-1", "endpointurl": address}.items():
        repository.command("dvc", "remote", "modify", "store", name, value)
    repository.commit("where it is")
    repository.environment |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def test_the_same_over_s3(repository, tmp_path, s3):
    address, _ = s3
    (repository.root / "large").write_bytes(os.urandom(110_000_000))
    repository.command("dvc", "add", "large")
    repository.commit("a large file")
    add_s3_remote(repository, address)
    clone = pushed_and_cloned(repository, tmp_path)
    assert "partNumber=3" in (tmp_path / "s3.log").read_text(), "what is large travels in parts"
    assert f"{len(STAGES)} of {len(STAGES)} stages are fresh" in clone.command("glassworks", "pull").stdout
    assert clone.manifests() == repository.manifests()
    assert (clone.root / "large").read_bytes() == (repository.root / "large").read_bytes()
    assert clone.pending() == set() and clone.dvc_is_clean()
    assert ": 0 files sent" in clone.command("glassworks", "push").stdout


def test_a_bucket_that_is_not_there_and_a_server_that_is_gone_are_one_line_each(repository, s3):
    address, kill = s3
    add_s3_remote(repository, address, "no-bucket")
    run = repository.command("glassworks", "push", succeeds=False)
    line = "remote store (s3://no-bucket/folder): The specified bucket does not exist; see that the address is right"
    assert run.returncode == 5 and line in run.stdout and len(run.stdout.splitlines()) == 1
    kill()
    run = repository.command("glassworks", "push", succeeds=False)
    assert run.returncode == 5 and "cannot be reached" in run.stdout and len(run.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "code", "line"),
    [
        (None, 2, "no remote is configured: `dvc remote add --default NAME URL`"),
        ("elsewhere", 4, "nothing is there"),
        ("ssh://127.0.0.1:1/store", 5, "cannot be reached (Connect call failed"),
    ],
)
def test_a_remote_that_is_not_there_is_one_line(repository, url, code, line):
    if url:
        add_remote(repository, url)
    before = repository.manifests()
    run = repository.command("glassworks", "pull", succeeds=False)
    assert run.returncode == code and line in run.stdout
    assert len(run.stdout.splitlines()) == 1
    assert repository.manifests() == before


def test_a_full_remote_is_one_line_and_the_next_push_ends_what_it_began(repository, tmp_path):
    """The file-size limit of the process stands in for a full disk: the kernel refuses the write in the same place."""
    (repository.root / "large").write_bytes(bytes(3_000_000))
    repository.command("dvc", "add", "large")
    add_remote(repository, str(tmp_path / "store"))
    run = repository.command("bash", "-c", "ulimit -f 2000; glassworks push", succeeds=False)
    assert run.returncode == 6
    assert f"remote store ({tmp_path}/store): File too large; free some space there" in run.stdout
    assert len(run.stdout.splitlines()) == 1
    assert not half_written(tmp_path / "store")
    repository.command("glassworks", "push")
    (repository.root / "large").unlink()
    shutil.rmtree(repository.root / ".dvc/cache")
    repository.command("glassworks", "pull")
    assert (repository.root / "large").stat().st_size == 3_000_000
