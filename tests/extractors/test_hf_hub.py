"""Models by their id on the hub: cache, download, offline; against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from extractors.registry import backbone_spec, load_backbone
from fixtures.hf import Models
from pipeline.core.errors import EnvironmentFault

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf:openai/clip-tiny+laion/clap-tiny"


class Hub:
    """A hub that holds folders, and remembers what was asked of it.

    Attributes:
        repos: Folder of each id.
        asked: Paths of requests.
    """

    def __init__(self, repos: dict[str, Path]) -> None:
        self.repos = repos
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(path)
                found = hub.answer(path)
                body = found or b'{"error": "not here"}'
                self.send_response(200 if found is not None else 404)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path: str) -> bytes | None:
        for repo, folder in self.repos.items():
            files = sorted(file for file in folder.iterdir() if file.is_file())
            if path == f"/api/models/{repo}/revision/main":
                return json.dumps({"id": repo, "sha": COMMIT, "siblings": []}).encode()
            if path == f"/api/models/{repo}/tree/{COMMIT}":
                return json.dumps(
                    [
                        {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40}
                        for f in files
                    ]
                ).encode()
            for file in files:
                if path == f"/{repo}/resolve/{COMMIT}/{file.name}":
                    return file.read_bytes()
        return None

    def repo_requests(self) -> list[str]:
        return [path for path in self.asked if "tiny" in path]


@pytest.fixture
def hub(hf_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    hub = Hub({"openai/clip-tiny": hf_models["clip"], "laion/clap-tiny": hf_models["clap"]})
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PIPELINE_OFFLINE", "0")
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_what_is_missing_is_fetched_once_and_said(
    hub: Hub, hf_models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = backbone_spec(NAME)
    said = capsys.readouterr().err
    assert "downloading the model openai/clip-tiny" in said
    assert "downloading the model laion/clap-tiny" in said
    assert spec.vision.weights.source == f"hub:openai/clip-tiny@{COMMIT}"
    assert spec.digest == backbone_spec(hf_models.pair("clip", "clap")).digest
    hub.asked.clear()
    assert backbone_spec(NAME) == spec
    assert load_backbone(NAME, device="cpu", threads=1).spec == spec
    assert hub.repo_requests() == []
    assert "downloading" not in capsys.readouterr().err


def test_only_what_is_needed_is_fetched(hub: Hub, tmp_path: Path, hf_models: Models) -> None:
    crowded = tmp_path / "crowded"
    crowded.mkdir()
    for file in hf_models["clip"].iterdir():
        (crowded / file.name).write_bytes(file.read_bytes())
    for name in ("pytorch_model.bin", "tf_model.h5", "model.fp16.safetensors", "modeling.py"):
        (crowded / name).write_bytes(b"no")
    hub.repos["openai/clip-tiny"] = crowded
    backbone_spec(NAME)
    fetched = {Path(path).name for path in hub.asked if "/resolve/" in path}
    assert "model.safetensors" in fetched
    assert not fetched & {
        "pytorch_model.bin", "tf_model.h5", "model.fp16.safetensors", "modeling.py"
    }  # fmt: skip


def test_offline_asks_nobody_and_says_how_to_get_it(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        backbone_spec(NAME, weights_dir=tmp_path / "weights", offline=True)
    said = str(caught.value)
    assert "openai/clip-tiny is not on this machine" in said
    assert f"looked in {tmp_path / 'weights'}/openai/clip-tiny" in said
    assert "the network is not to be used" in said
    assert "hf download openai/clip-tiny" in said
    assert hub.asked == []


def test_offline_takes_what_was_fetched_before(hub: Hub) -> None:
    spec = backbone_spec(NAME)
    hub.asked.clear()
    assert backbone_spec(NAME, offline=True) == spec
    loaded = load_backbone(NAME, device="cpu", threads=1, offline=True)
    assert loaded.spec == spec
    assert hub.asked == []


def test_an_id_that_the_hub_does_not_know_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EnvironmentFault, match=r"openai/clip-tyny is not on this machine"):
        backbone_spec("hf:openai/clip-tyny+laion/clap-tiny")
    (tmp_path / "openai" / "clip-tyny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnvironmentFault, match=r"for the folder of that name write \./openai/clip"):
        backbone_spec("hf:openai/clip-tyny+laion/clap-tiny")


def test_a_hub_that_does_not_answer_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(EnvironmentFault, match="openai/clip-tiny is not on this machine"):
        backbone_spec(NAME)


def test_a_repository_of_pickles_is_refused_without_fetching_them(
    hub: Hub, tmp_path: Path, hf_models: Models
) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in hf_models["clip"].iterdir():
        name = "pytorch_model.bin" if file.name == "model.safetensors" else file.name
        (pickled / name).write_bytes(file.read_bytes())
    hub.repos["openai/clip-tiny"] = pickled
    with pytest.raises(EnvironmentFault, match=r"lacks model\.safetensors .*@refs/pr/1"):
        backbone_spec(NAME)
    assert not any("pytorch_model" in path for path in hub.asked)
