"""Requests of other sites are refused: by the name of the server, by their origin, and by the token."""

import pytest

from glassworks.web.guard import loopback_hosts

from ..data.small_shards import picture
from .conftest import PORT, client_of, parts

FORM = {"file": ("a", picture(1))}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_every_name_of_this_machine_is_served(panels, host):
    client = client_of(panels, host)
    assert client.get("/").status_code == 200
    assert client.post("/panels/0", files=FORM, headers={"Origin": f"http://{host}:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "127.0.0.1.evil.example:8000", "127.0.0.1", "localhost:9", "192.168.0.9:8000", ""]
)
def test_a_foreign_name_is_refused(client, host):
    """A site whose name resolves to this machine would otherwise read the answers (DNS rebinding)."""
    for response in (
        client.get("/", headers={"Host": host}),
        client.get("/static/demo.js", headers={"Host": host}),
        client.post("/panels/0", files=FORM, headers={"Host": host, "Origin": f"http://{host}"}),
    ):
        assert response.status_code == 421 and response.text.count("\n") == 1 and "<html" not in response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"https://127.0.0.1:{PORT}"},
        {"Origin": "http://127.0.0.1:9"},
        {"Origin": f"http://localhost:{PORT}"},
        {"Origin": f"http://127.0.0.1:{PORT}", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_post_of_another_site_is_refused(client, headers):
    response = client.post("/panels/0", files=FORM, headers=headers)
    assert (response.status_code, response.text) == (403, "the request comes from another site\n")


def test_every_response_has_the_headers_that_protect_the_page(client):
    for response in (
        client.get("/"),
        client.get("/static/demo.js"),
        client.get("/nothing"),
        client.get("/", headers={"Host": "evil.example"}),
        client.post("/panels/0", files=FORM),
    ):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/static/../guard.py", 404),
        ("/static/%2e%2e%2fguard.py", 404),
        ("/static//etc/passwd", 404),
        ("/panels/0", 405),
        ("/panels/-1", 404),
        ("/panels/a", 404),
    ],
)
def test_no_address_reaches_the_file_system(client, path, status):
    response = client.get(path)
    assert response.status_code == status and len(response.text) < 40
    assert client.post("/panels/99", files=parts({})).status_code == 404


def test_a_token_opens_the_page_once_and_a_cookie_keeps_it_open(panels):
    client = client_of(panels, "machine.example", token="secret")
    for path in ("/", "/?token=", "/?token=secre", "/?token=secrets", "/?token=%ff%00é", "/static/demo.js"):
        assert client.get(path).status_code == 401
    assert client.post("/panels/0", files=FORM).status_code == 401
    assert client.get("/", headers={"Cookie": f"glassworks-{PORT}=wrong"}).status_code == 401
    response = client.get("//evil.example/?token=secret")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    client = client_of(panels, "machine.example", token="secret")
    assert client.get("/?token=secret").headers["location"] == "/"
    assert client.get("/").status_code == 200 and client.post("/panels/0", files=FORM).status_code == 200
    assert client.post("/panels/0", files=FORM, headers={"Origin": "http://evil.example"}).status_code == 403


def test_hosts_of_port_80_have_no_port():
    assert {"localhost", "localhost:80", "127.0.0.1", "[::1]"} <= loopback_hosts("127.0.0.1", 80)
    assert "localhost" not in loopback_hosts("127.0.0.1", 8000)
