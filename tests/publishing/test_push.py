"""`glassworks publish --push`: the client of the hub uploads to a hub on this machine, which keeps what it gets."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import flask
import pytest
from werkzeug.serving import make_server

from .test_publish import contents

TOKEN = "hf_of_this_test"
NAME = "ada/lm"


class Hub:
    """The parts of the hub's API that an upload uses, and the files of its repositories."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []
        self.failing: dict[str, int] = {}
        """Status by the last part of a route."""
        self.url = ""
        self.app = flask.Flask("hub")
        self.app.before_request(self._refuse)
        add = self.app.add_url_rule
        add("/api/repos/create", view_func=self._create, methods=["POST"])
        add("/api/validate-yaml", view_func=lambda: {"errors": [], "warnings": []}, methods=["POST"])
        add("/api/models/<owner>/<name>/tree/main", view_func=self._tree)
        add("/api/models/<owner>/<name>/preupload/main", view_func=self._preupload, methods=["POST"])
        add("/api/models/<owner>/<name>/commit/main", view_func=self._commit, methods=["POST"])

    def _refuse(self) -> tuple[dict[str, str], int] | None:
        if flask.request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return {"error": "Invalid username or password."}, 401
        status = next((code for part, code in self.failing.items() if part in flask.request.path), None)
        return ({"error": "Internal error"}, status) if status else None

    def _create(self) -> tuple[dict[str, str], int]:
        given = flask.request.get_json()
        name = "/".join(filter(None, (given.get("organization"), given["name"])))
        status = 409 if name in self.repositories else 200
        self.repositories.setdefault(name, {})
        return {"url": f"{self.url}/{name}"}, status

    def _tree(self, owner: str, name: str) -> flask.Response:
        files = self.repositories[f"{owner}/{name}"]
        return flask.jsonify(
            [{"type": "file", "path": path, "size": len(content), "oid": "0" * 40} for path, content in files.items()]
        )

    def _preupload(self, owner: str, name: str) -> dict[str, object]:
        wanted = flask.request.get_json()["files"]
        return {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in wanted]}

    def _commit(self, owner: str, name: str) -> dict[str, object]:
        files = self.repositories[f"{owner}/{name}"]
        for line in flask.request.get_data(as_text=True).splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "header":
                self.commits.append(value["summary"])
            elif part["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "deletedFile":
                del files[value["path"]]
        return {"commitUrl": f"{self.url}/{owner}/{name}/commit/1", "commitOid": "1" * 40, "success": True}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    server = make_server("127.0.0.1", 0, made.app, threaded=True)
    made.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def published(here, folders, tmp_path) -> Path:
    return shutil.copytree(folders["lm"], tmp_path / "lm")


def test_a_pushed_folder_verifies_after_its_download(hub, published, tmp_path, glassworks):
    shown = glassworks("publish", "lm", published, "--push", NAME)
    assert shown.endswith(f"{hub.url}/{NAME}/commit/1\n")
    assert hub.repositories[NAME] == contents(published) and len(hub.commits) == 1
    for name, content in hub.repositories[NAME].items():
        file = tmp_path / "downloaded" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert "every digest is right" in glassworks("verify", tmp_path / "downloaded")


def test_a_second_push_removes_the_files_of_the_first(hub, published, glassworks):
    hub.repositories[NAME] = {".gitattributes": b"", "glassworks.json": b"{}", "old.txt": b"", "data/old/card": b""}
    glassworks("publish", "lm", published, "--push", NAME)
    assert hub.repositories[NAME] == {".gitattributes": b"", **contents(published)}


def test_a_repository_of_something_else_is_left_alone(hub, published, glassworks):
    hub.repositories[NAME] = {".gitattributes": b"", "thesis.pdf": b"mine"}
    shown = glassworks("publish", "lm", published, "--push", NAME)
    assert shown.endswith(
        "error: --push ada/lm: holds files of something else, such as thesis.pdf; choose another repository"
    )
    assert hub.repositories[NAME] == {".gitattributes": b"", "thesis.pdf": b"mine"}


def test_a_refused_login_is_one_line(hub, published, monkeypatch, glassworks):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    shown = glassworks("publish", "lm", published, "--push", NAME).splitlines()
    assert shown[1:] == [
        "error: --push ada/lm: the hub answers 401; log in with `hf auth login`, or set HF_TOKEN to a token that may write"
    ]
    assert hub.repositories == {}


@pytest.mark.parametrize("part", ["create", "tree", "commit"])
def test_a_failing_hub_is_one_line(hub, published, monkeypatch, glassworks, part):
    hub.failing[part] = 500
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    shown = glassworks("publish", "lm", published, "--push", NAME).splitlines()
    assert shown[1:] == [
        f"error: --push ada/lm: the hub answers 500; {published} is whole, so the same command tries it again"
    ]
    assert hub.repositories.get(NAME, {}) == {}


def test_a_hub_that_does_not_answer_and_a_name_that_is_none(hub, published, monkeypatch, glassworks):
    assert "--push a/b/c: not the name of a repository; write OWNER/NAME" in glassworks(
        "publish", "lm", published, "--push", "a/b/c"
    )
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    [line] = glassworks("publish", "lm", published, "--push", NAME).splitlines()[1:]
    assert "--push ada/lm: the hub cannot be reached (" in line and line.endswith("try the same command again")
