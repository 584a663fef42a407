"""A pinned wheel is found through the user's own index settings, by its digest, or the error says what is wrong."""

import hashlib
import ipaddress
import json
import os
import socket

import pytest

from glassworks.data.fetching import http_session, package_index
from glassworks.data.fetching.package_index import DEFAULT_INDEX, IndexSettings, find_wheel, read_settings
from glassworks.errors import FetchError

WHEEL = b"the bytes of a wheel"
SHA256 = hashlib.sha256(WHEEL).hexdigest()
OTHER = "b" * 64
HTML, JSON = "text/html", "application/vnd.pypi.simple.v1+json"


def page(*links: tuple[str, str | None], base: str = "") -> bytes:
    """A project page of the Simple API, in HTML."""
    anchors = (
        f'<a href="{base}{name}{f"#sha256={digest}" if digest else ""}">{name}</a><br/>' for name, digest in links
    )
    return f"<!DOCTYPE html><html><body>{''.join(anchors)}</body></html>".encode()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(package_index, "RETRIES", 0)


@pytest.fixture
def index(file_server, quick):
    """A local index that offers three files of a package, at /simple."""
    links = [
        ("some_thing-1.0-py3-none-any.whl", SHA256),
        ("some_thing-1.0.tar.gz", OTHER),
        ("some_thing-0.9-py3-none-any.whl", OTHER),
    ]
    file_server.files["/simple/some-thing/"] = page(*links, base="../../files/")
    file_server.types["/simple/some-thing/"] = HTML
    return IndexSettings(indexes=(f"{file_server.url}/simple",))


@pytest.fixture
def pip_configuration(monkeypatch, tmp_path):
    """Writes pip's configuration file; nothing of this machine's settings is left but a system-wide one."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))

    def write(text: str = "") -> None:
        (tmp_path / "pip.conf").write_text(text)

    write()
    return write


def test_without_settings_the_default_index_is_asked(pip_configuration, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert read_settings().indexes == (DEFAULT_INDEX,)


def test_pips_file_and_environment_are_followed_and_the_environment_wins(pip_configuration, monkeypatch):
    pip_configuration(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url =\n    https://one.example\n    file:///two\n"
        "proxy = http://proxy.example:3128\n"
        "find-links = /wheels\ncert = /own.pem\ntrusted-host = mirror.example\n    other.example:8443\n"
    )
    assert read_settings() == IndexSettings(
        indexes=("https://mirror.example/simple", "https://one.example", "file:///two"),
        find_links=("/wheels",),
        certificate="/own.pem",
        trusted_hosts=("mirror.example", "other.example:8443"),
        proxy="http://proxy.example:3128",
    )
    monkeypatch.setenv("PIP_INDEX_URL", "https://environment.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/more")
    assert read_settings().indexes[0] == "https://environment.example/simple"
    assert read_settings().find_links == ("/more",)


def test_no_index_leaves_find_links(pip_configuration):
    pip_configuration("[global]\nno-index = true\nindex-url = https://mirror.example/simple\nfind-links = /wheels\n")
    assert read_settings() == IndexSettings(
        indexes=(), find_links=("/wheels",), certificate=read_settings().certificate
    )


def test_uvs_environment_is_followed(pip_configuration, monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mirror.example/simple")
    monkeypatch.setenv("UV_INDEX", "inner=https://one.example/simple https://two.example/simple?a=b")
    assert read_settings().indexes == (
        "https://mirror.example/simple",
        "https://one.example/simple",
        "https://two.example/simple?a=b",
    )
    monkeypatch.delenv("UV_DEFAULT_INDEX")
    monkeypatch.setenv("UV_INDEX_URL", "https://older.example/simple")
    assert read_settings().indexes[0] == "https://older.example/simple"


def test_pips_broken_configuration_is_one_clear_line(pip_configuration):
    pip_configuration("index-url without a section\n")
    with pytest.raises(FetchError, match="pip cannot read its configuration") as error:
        read_settings()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["some-thing", "Some.Thing", "some_thing"])
def test_wheel_is_found_on_an_html_page_whatever_the_spelling(index, file_server, name):
    found = find_wheel(name, "1.0", SHA256, index)
    assert found.url == f"{file_server.url}/files/some_thing-1.0-py3-none-any.whl"
    assert found.filename == "some_thing-1.0-py3-none-any.whl"


def test_wheel_is_found_on_a_json_page(index, file_server):
    entry = {"filename": "some_thing-1.0-py3-none-any.whl", "url": "/files/w.whl", "hashes": {"sha256": SHA256}}
    content = {"meta": {"api-version": "1.0"}, "name": "some-thing", "files": [entry]}
    file_server.files["/simple/some-thing/"] = json.dumps(content).encode()
    file_server.types["/simple/some-thing/"] = JSON
    assert find_wheel("some-thing", "1.0", SHA256, index).url == f"{file_server.url}/files/w.whl"


def test_equal_versions_may_be_written_differently(index):
    assert find_wheel("some-thing", "1.0.0", SHA256, index).filename == "some_thing-1.0-py3-none-any.whl"


def test_file_index_and_folder_of_wheels(tmp_path, quick):
    (tmp_path / "simple/some-thing").mkdir(parents=True)
    (tmp_path / "simple/some-thing/index.html").write_bytes(
        page(("some_thing-1.0-py3-none-any.whl", SHA256), base="../../files/")
    )
    wheel = tmp_path / "wheels of mine" / "some_thing-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(WHEEL)
    (wheel.parent / "some_thing_else-1.0-py3-none-any.whl").write_bytes(b"")
    by_index = IndexSettings(indexes=((tmp_path / "simple").as_uri(),))
    assert find_wheel("some-thing", "1.0", SHA256, by_index).url == (tmp_path / "files" / wheel.name).as_uri()
    for place in (str(wheel.parent), wheel.parent.as_uri()):
        assert find_wheel("some-thing", "1.0", SHA256, IndexSettings((), (place,))).url == wheel.as_uri()
    with pytest.raises(FetchError, match=f"the index offers some_thing-1.0-py3-none-any.whl sha256 {SHA256}"):
        find_wheel("some-thing", "1.0", OTHER, IndexSettings((), (str(wheel.parent),)))


def test_page_of_links(file_server, quick):
    file_server.files["/wheels.html"] = page(
        ("other-1.0-py3-none-any.whl", OTHER), ("some_thing-1.0-py3-none-any.whl", SHA256)
    )
    file_server.types["/wheels.html"] = HTML
    settings = IndexSettings((), (f"{file_server.url}/wheels.html",))
    assert find_wheel("some-thing", "1.0", SHA256, settings).url == f"{file_server.url}/some_thing-1.0-py3-none-any.whl"


def test_only_wheel_of_a_version_is_taken_when_the_index_states_no_digest(index, file_server):
    file_server.files["/simple/some-thing/"] = page(("some_thing-1.0-py3-none-any.whl", None))
    assert find_wheel("some-thing", "1.0", SHA256, index).filename == "some_thing-1.0-py3-none-any.whl"


def test_other_digest_is_refused_with_what_was_pinned_and_what_is_offered(index):
    pinned = "c" * 64
    with pytest.raises(FetchError) as error:
        find_wheel("some-thing", "1.0", pinned, index)
    assert str(error.value) == (
        f"some-thing 1.0: no wheel has the pinned sha256 {pinned}; "
        f"the index offers some_thing-1.0-py3-none-any.whl sha256 {SHA256}"
    )


def test_unknown_version_lists_the_known_ones(index):
    with pytest.raises(
        FetchError, match=r"some-thing: there is no wheel of version 2.0 at .*; versions there: 0.9, 1.0$"
    ):
        find_wheel("some-thing", "2.0", SHA256, index)


def test_unknown_package(index, file_server):
    with pytest.raises(FetchError, match=f"nothing-like-it: no such package at {file_server.url}/simple"):
        find_wheel("nothing-like-it", "1.0", SHA256, index)


def closed_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/simple"


def test_index_out_of_reach_is_one_clear_line(quick):
    with pytest.raises(FetchError, match=r"some-thing 1.0 cannot be looked up: .*Connection refused") as error:
        find_wheel("some-thing", "1.0", SHA256, IndexSettings((closed_port(),)))
    assert "\n" not in str(error.value)


def test_busy_index_is_asked_again(index, file_server, monkeypatch):
    monkeypatch.setattr(
        package_index, "RETRIES", package_index.Retry(total=3, backoff_factor=0, status_forcelist=(503,))
    )
    file_server.failures = [503, 503]
    assert find_wheel("some-thing", "1.0", SHA256, index).filename.endswith(".whl")
    assert len(file_server.asked) == 3


def test_second_index_serves_when_the_first_is_out_of_reach_or_has_another_file(index, file_server):
    file_server.files["/old/some-thing/"] = page(("some_thing-1.0-py3-none-any.whl", OTHER))
    file_server.types["/old/some-thing/"] = HTML
    settings = IndexSettings((closed_port(), f"{file_server.url}/old", *index.indexes))
    assert find_wheel("some-thing", "1.0", SHA256, settings).url.startswith(f"{file_server.url}/files/")


def test_page_that_is_no_index_is_said_to_be_none(index, file_server):
    file_server.types["/simple/some-thing/"] = "image/png"
    with pytest.raises(FetchError, match="answers, but not as a package index"):
        find_wheel("some-thing", "1.0", SHA256, index)


def test_no_index_and_no_find_links():
    with pytest.raises(FetchError, match="no-index is set"):
        find_wheel("some-thing", "1.0", SHA256, IndexSettings((), ()))


def test_credentials_serve_for_files_on_the_same_host_and_are_never_shown(index, file_server):
    own = file_server.url.replace("http://", "http://me:secret@")
    file_server.files["/simple/some-thing/"] = page(
        ("some_thing-1.0-py3-none-any.whl", SHA256), base=f"{file_server.url}/files/"
    )
    found = find_wheel("some-thing", "1.0", SHA256, IndexSettings((f"{own}/simple",)))
    assert found.url.startswith(f"{own}/files/")
    assert file_server.authorization == ["Basic bWU6c2VjcmV0"]
    for settings in (IndexSettings((f"{own}/simple",)), IndexSettings((closed_port().replace("//", "//me:secret@"),))):
        with pytest.raises(FetchError) as error:
            find_wheel("nothing-like-it", "1.0", SHA256, settings)
        assert "secret" not in str(error.value)


def test_only_an_index_on_a_private_network_may_name_private_addresses(index, monkeypatch):
    assert find_wheel("some-thing", "1.0", SHA256, index).allow_private
    monkeypatch.setattr(
        http_session, "PRIVATE", (ipaddress.ip_network("10.0.0.0/8"),)
    )  # our server now counts as public
    assert not find_wheel("some-thing", "1.0", SHA256, index).allow_private
