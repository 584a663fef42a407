"""What arrives is the file with the pinned digest, or one clear error; what was cut continues."""

import datetime
import hashlib
import ipaddress
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glassworks.data.fetching import download as module
from glassworks.data.fetching import http_session
from glassworks.data.fetching.download import download
from glassworks.data.fetching.http_session import is_private, open_session
from glassworks.errors import FetchError, ResourceError

CONTENT = bytes(i * 31 % 251 for i in range(1_000_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def get(file_server, tmp_path):
    """Downloads /file from the local server; returns the target."""
    file_server.files["/file"] = CONTENT

    def get(path="/file", sha256=SHA256, **options) -> Path:
        target = tmp_path / "file.bin"
        options = {"allow_private": True, "delays": (), "stall_seconds": 5, **options}
        download(path if "://" in path else file_server.url + path, target, sha256, tmp_path / "partial", **options)
        return target

    return get


def parts(tmp_path: Path) -> list[int]:
    return [path.stat().st_size for path in (tmp_path / "partial").glob("*.part")]


def test_download_gives_the_file_and_leaves_no_part(get, tmp_path):
    assert get().read_bytes() == CONTENT
    assert list((tmp_path / "partial").iterdir()) == []


def test_cut_download_continues_where_it_stopped(get, file_server, tmp_path):
    file_server.cuts = [500_000]
    with pytest.raises(FetchError, match="500,000 bytes are kept and the same command continues"):
        get()
    assert parts(tmp_path) == [500_000]
    assert get().read_bytes() == CONTENT
    assert file_server.asked_for("/file") == [None, "bytes=500000-"]


def test_cut_download_is_tried_again_by_itself(get, file_server):
    file_server.cuts = [300_000, 300_000]
    assert get(delays=(0.0,)).read_bytes() == CONTENT
    assert file_server.asked_for("/file") == [None, "bytes=300000-", "bytes=600000-"]


def test_killed_download_continues_where_it_stopped(get, file_server, tmp_path):
    file_server.stall = 30
    script = (
        "import sys; from pathlib import Path; from glassworks.data.fetching.download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), allow_private=True)"
    )
    arguments = [file_server.url + "/file", tmp_path / "file.bin", SHA256, tmp_path / "partial"]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments])
    limit = time.monotonic() + 20
    while not any(parts(tmp_path)) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (kept,) = parts(tmp_path)
    assert 0 < kept < len(CONTENT)
    file_server.stall = 0
    assert get().read_bytes() == CONTENT
    assert file_server.asked_for("/file") == [None, f"bytes={kept}-"]


def test_server_that_ignores_ranges_makes_it_start_again(get, file_server):
    file_server.cuts, file_server.ranges = [500_000], False
    with pytest.raises(FetchError):
        get()
    assert get().read_bytes() == CONTENT


def test_rest_is_never_taken_from_a_file_that_changed_meanwhile(get, file_server):
    file_server.files["/file"], file_server.etag, file_server.cuts = b"\0" * 1_000_000, '"old"', [500_000]
    with pytest.raises(FetchError):
        get()
    file_server.files["/file"], file_server.etag = CONTENT, '"new"'
    assert get().read_bytes() == CONTENT
    assert file_server.asked_for("/file") == [None, "bytes=500000-"]


def test_part_of_another_file_is_found_out_by_the_digest_and_downloaded_again(get, file_server):
    file_server.files["/file"], file_server.etag, file_server.cuts = b"\0" * 1_000_000, None, [500_000]
    with pytest.raises(FetchError):
        get()
    file_server.files["/file"] = CONTENT
    assert get().read_bytes() == CONTENT
    assert file_server.asked_for("/file") == [None, "bytes=500000-", None]


def test_part_that_was_already_complete_is_used(get, file_server, tmp_path):
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / f"{SHA256[:16]}-file.bin.part").write_bytes(CONTENT)
    assert get().read_bytes() == CONTENT
    assert file_server.asked_for("/file") == ["bytes=1000000-"]


def test_part_longer_than_the_file_is_thrown_away(get, tmp_path):
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / f"{SHA256[:16]}-file.bin.part").write_bytes(CONTENT + b"more")
    assert get(delays=(0.0,)).read_bytes() == CONTENT


def test_wrong_digest_names_file_expected_and_found_and_deletes_the_part(get, tmp_path):
    with pytest.raises(FetchError, match=f"file.bin .*expected sha256 {'0' * 64}, found {SHA256}") as error:
        get(sha256="0" * 64)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "file.bin").exists()
    assert parts(tmp_path) == []


def test_busy_server_is_asked_again_on_an_exponential_schedule(get, file_server, monkeypatch, capsys):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    file_server.failures = [503, 502, 429, 500]
    assert get(delays=module.DELAYS).read_bytes() == CONTENT
    assert pauses == [1, 2, 4, 8]
    assert "503 Service Unavailable; trying again in 1 s" in capsys.readouterr().err


def test_busy_server_is_given_up_after_the_schedule(get, file_server):
    file_server.failures = [503] * 10
    with pytest.raises(FetchError, match=r"503 Service Unavailable \(attempt 3\)"):
        get(delays=(0.0, 0.0))
    assert len(file_server.asked) == 3


def test_missing_file_is_not_asked_for_again(get, file_server):
    with pytest.raises(FetchError, match="/nothing: the server answers 404"):
        get("/nothing", delays=(0.0, 0.0))
    assert len(file_server.asked) == 1


def test_name_that_does_not_resolve_is_one_clear_line(get):
    with pytest.raises(
        FetchError, match=r"the name no-such-host.invalid cannot be resolved; is there a network\?"
    ) as error:
        get("https://no-such-host.invalid/file")
    assert "\n" not in str(error.value)


def test_refused_connection_is_one_clear_line(get):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(FetchError, match="Connection refused"):
            get(f"http://127.0.0.1:{unused.getsockname()[1]}/file")


def test_silent_server_is_left_after_the_stall_time_and_its_bytes_are_kept(get, file_server):
    file_server.stall = 30
    with pytest.raises(FetchError, match=r"no answer in time .*[1-9][0-9,]+ bytes are kept"):
        get(stall_seconds=0.3)


def test_time_limit(get, tmp_path):
    with pytest.raises(FetchError, match="not finished in the time allowed"):
        get(max_seconds=0)
    assert parts(tmp_path)[0] > 0


def test_size_limit_before_a_byte_is_read(get, tmp_path):
    with pytest.raises(FetchError, match="1,000,000 bytes, more than the 999,999 allowed"):
        get(max_bytes=999_999)
    assert parts(tmp_path) == []


def test_size_limit_where_the_server_states_no_length(get, file_server, tmp_path):
    file_server.lengths = False
    with pytest.raises(FetchError, match="more than the 999,999 bytes allowed"):
        get(max_bytes=999_999)
    assert parts(tmp_path) == []


def test_bytes_are_those_the_server_keeps_whatever_encoding_it_claims(get, file_server):
    file_server.headers["Content-Encoding"] = "gzip"
    assert get().read_bytes() == CONTENT


def test_full_disk_is_a_resource_error_and_the_download_continues_later(get, file_server, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        with pytest.raises(ResourceError, match="free some space"):
            get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (kept,) = parts(tmp_path)
    assert get().read_bytes() == CONTENT
    assert file_server.asked_for("/file") == [None, f"bytes={kept}-"]


def test_private_address_is_refused_unless_asked_for(get, file_server):
    with pytest.raises(FetchError, match=r"127.0.0.1 is a private address"):
        get(allow_private=False)
    assert file_server.asked == []


def test_name_that_leads_to_a_private_address_is_refused_before_anything_is_sent(get, file_server, monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **options: real("127.0.0.1", *rest, **options))
    with pytest.raises(FetchError, match=r"files.example.org \(127.0.0.1\) is a private address"):
        get(file_server.url.replace("127.0.0.1", "files.example.org") + "/file", allow_private=False)
    assert file_server.asked == []


def test_redirect_to_a_private_address_is_refused(get, file_server, monkeypatch):
    monkeypatch.setattr(http_session, "PRIVATE", (ipaddress.ip_network("127.0.0.2/32"),))
    file_server.redirects = {"/moved": file_server.url + "/file", "/trap": "http://127.0.0.2/file"}
    assert get("/moved", allow_private=False).read_bytes() == CONTENT
    with pytest.raises(FetchError, match=r"127.0.0.2 is a private address"):
        get("/trap", allow_private=False)


def test_proxy_resolves_names_and_private_numbers_stay_refused(get, file_server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    file_server.files["http://files.invalid/file"] = CONTENT
    assert get("http://files.invalid/file", session=open_session(proxy=file_server.url)).read_bytes() == CONTENT
    with pytest.raises(FetchError, match=r"10\.0\.0\.1 is a private address"):
        get("http://10.0.0.1/file", session=open_session(proxy=file_server.url))


@pytest.mark.parametrize("elsewhere", ["file:///etc/hostname", "ftp://127.0.0.1/file"])
def test_only_http_and_https_are_followed(get, file_server, elsewhere):
    file_server.redirects["/trap"] = elsewhere
    for url in (elsewhere, "/trap"):
        with pytest.raises(FetchError, match="not http or https"):
            get(url)


def test_endless_redirects_are_left(get, file_server):
    file_server.redirects["/loop"] = "/loop"
    with pytest.raises(FetchError, match="too many redirects"):
        get("/loop")


@pytest.mark.parametrize(
    ("address", "private"),
    [
        *((address, True) for address in ("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.169.254")),
        *(
            (address, True)
            for address in ("0.0.0.0", "100.64.0.1", "::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1")
        ),
        *((address, False) for address in ("93.184.215.14", "172.32.0.1", "2606:2800:220:1::1", "203.0.113.7")),
    ],
)
def test_which_addresses_are_private(address, private):
    assert is_private(address) == private


@pytest.fixture
def secure_server(file_server, tmp_path):
    """A TLS server whose certificate nobody has signed; gives its URL and the certificate's file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "certificate.pem").write_bytes(certificate)
    (tmp_path / "both.pem").write_bytes(private + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    file_server.server.socket = context.wrap_socket(file_server.server.socket, server_side=True)
    return file_server.url.replace("http://127.0.0.1", "https://localhost"), str(tmp_path / "certificate.pem")


def test_certificate_that_nobody_signed_is_refused_at_once(get, secure_server):
    url, _ = secure_server
    with pytest.raises(FetchError, match=r"no secure connection .*certificate.*set pip's `cert`") as error:
        get(f"{url}/file", delays=(60.0,))
    assert "\n" not in str(error.value)


def test_certificate_that_pips_settings_name_is_accepted(get, secure_server):
    url, certificate = secure_server
    assert get(f"{url}/file", session=open_session(True, certificate)).read_bytes() == CONTENT


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_host_that_pips_settings_trust_needs_no_certificate(get, secure_server):
    url, _ = secure_server
    assert get(f"{url}/file", session=open_session(True, trusted_hosts=("localhost",))).read_bytes() == CONTENT
    with pytest.raises(FetchError, match="no secure connection"):
        get(f"{url}/file", session=open_session(True, trusted_hosts=("localhost:1",)))
