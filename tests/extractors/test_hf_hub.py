"""Models by their id on the hub: cache, download, offline; against a hub on this machine."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from extractors.preview import preview_spec
from extractors.registry import backbone_spec, load_backbone
from fixtures.hf import Models, edit_json, in_parts, in_torch_format
from fixtures.media import Zoo
from pipeline.cli import main
from pipeline.core.errors import EnvironmentFault, UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf:openai/clip-tiny+laion/clap-tiny"


def flip(content: bytes) -> bytes:
    """One bit of a weight is wrong."""
    changed = bytearray(content)
    changed[-100] ^= 1
    return bytes(changed)


class Hub:
    """A hub that holds folders, and remembers what was asked of it.

    Attributes:
        repos: Folder of each id.
        asked: Paths of requests.
        fetched: Those of them that the content was asked of.
        cache: Folder of the hub's cache on this machine.
        hashes: Whether it says the hash of a file.
        spoilt: Suffix of the files that it sends with one wrong bit; what it says of them is right.
    """

    def __init__(self, repos: dict[str, Path]) -> None:
        self.repos = repos
        self.asked: list[str] = []
        self.fetched: list[str] = []
        self.cache = ""
        self.hashes = True
        self.spoilt = "none"
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(path)
                found = hub.answer(path)
                body = found or b'{"error": "not here"}'
                self.send_response(200 if found is not None else 404)
                self.send_header("Content-Length", str(len(body)))
                mark = hashlib.sha256(body) if hub.hashes else hashlib.sha1(body)
                self.send_header("ETag", f'"{mark.hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if self.command == "GET":
                    if "/resolve/" in path and found is not None:
                        hub.fetched.append(path)
                    self.wfile.write(flip(body) if path.endswith(hub.spoilt) else body)

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
            if path in {f"/api/models/{repo}/revision/{name}" for name in ("main", COMMIT)}:
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


class Notebook:
    """Writes down what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, what: str, done: int, total: int | None) -> None:
        raise AssertionError("nothing is fetched here")


@pytest.fixture
def hub(hf_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    hub = Hub({"openai/clip-tiny": hf_models["clip"], "laion/clap-tiny": hf_models["clap"]})
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    hub.cache = str(tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", hub.cache)
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


def small(path: str) -> bool:
    return path.endswith((".json", ".txt")) and "/resolve/" in path


def fetched(hub: Hub) -> set[str]:
    """Names of the files whose content was asked for."""
    return {Path(path).name for path in hub.fetched}


def changed_copy(hub: Hub, repo: str, folder: Path, change: Callable[[Path], object]) -> Path:
    """Put a changed copy of a model in its place on the hub."""
    shutil.copytree(hub.repos[repo], folder)
    change(folder)
    hub.repos[repo] = folder
    return folder


def test_a_repository_of_torch_files_is_fetched_too(hub: Hub, tmp_path: Path) -> None:
    changed_copy(hub, "openai/clip-tiny", tmp_path / "old", in_torch_format)
    loaded = load_backbone(NAME, device="cpu", threads=1)
    assert loaded.spec.vision.weights.file == "pytorch_model.bin"
    assert {"pytorch_model.bin", "model.safetensors"} <= fetched(hub)  # of one and of the other
    hub.asked.clear()
    assert load_backbone(NAME, device="cpu", threads=1).spec == loaded.spec
    assert hub.repo_requests() == []


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_parts_are_fetched_as_the_index_names_them(hub: Hub, tmp_path: Path, suffix: str) -> None:
    files = []
    changed_copy(
        hub,
        "openai/clip-tiny",
        tmp_path / "old",
        lambda folder: files.extend(in_parts(folder, suffix)),
    )
    spec = backbone_spec(NAME)
    assert [weights.file for weights in spec.vision.files] == files
    assert set(files) <= fetched(hub)
    assert load_backbone(NAME, device="cpu", threads=1, offline=True).spec == spec


def test_a_part_that_the_hub_lacks_is_named(hub: Hub, tmp_path: Path) -> None:
    folder = changed_copy(
        hub, "openai/clip-tiny", tmp_path / "old", lambda folder: in_parts(folder, "bin")
    )
    lost = sorted(folder.glob("*.bin"))[1]
    lost.unlink()
    with pytest.raises(EnvironmentFault, match=rf"the model openai/clip-tiny lacks {lost.name}"):
        backbone_spec(NAME)


def test_an_index_on_the_hub_that_leads_elsewhere_is_refused_before_anything_is_fetched(
    hub: Hub, tmp_path: Path
) -> None:
    def spoil(folder: Path) -> None:
        in_parts(folder, "bin")
        edit_json(folder / "pytorch_model.bin.index.json", weight_map={"a": "../clap/x.bin"})

    changed_copy(hub, "openai/clip-tiny", tmp_path / "old", spoil)
    with pytest.raises(EnvironmentFault, match=r"names '\.\./clap/x\.bin' as a part"):
        backbone_spec(NAME)
    assert all(small(path) for path in hub.fetched)


def test_a_repository_without_weights_that_can_be_read_says_so(hub: Hub, tmp_path: Path) -> None:
    changed_copy(
        hub,
        "openai/clip-tiny",
        tmp_path / "old",
        lambda folder: (folder / "model.safetensors").rename(folder / "tf_model.h5"),
    )
    with pytest.raises(EnvironmentFault, match=r"lacks its weights, .*@refs/pr/1"):
        backbone_spec(NAME)


def test_a_download_that_broke_off_behind_the_description_goes_on(
    hub: Hub, hf_models: Models
) -> None:
    backbone_spec(NAME)
    [snapshot] = Path(hub.cache).glob("models--openai--clip-tiny/snapshots/*")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "tokenizer.json").unlink()
    assert backbone_spec(NAME).digest == backbone_spec(hf_models.pair("clip", "clap")).digest
    assert (snapshot / "tokenizer.json").is_file()


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "parts"])
def test_weights_that_are_not_what_the_hub_says_are_refused_and_removed(
    parts: bool, hub: Hub, hf_models: Models, tmp_path: Path
) -> None:
    if parts:
        changed_copy(
            hub,
            "openai/clip-tiny",
            tmp_path / "old",
            lambda folder: in_parts(folder, "safetensors"),
        )
    preview = preview_spec(NAME, watch=Notebook())
    hub.spoilt = ".safetensors"
    with pytest.raises(EnvironmentFault) as caught:
        load_backbone(NAME, device="cpu", threads=1)
    first = preview.vision.weights
    assert f"{first.file} of openai/clip-tiny has SHA-256" in str(caught.value)
    assert f"where the hub says {first.sha256}" in str(caught.value)
    model = Path(hub.cache) / "models--openai--clip-tiny"
    assert not list(model.glob(f"snapshots/*/{first.file}"))
    assert not (model / "blobs" / first.sha256).exists()
    hub.spoilt = "none"
    assert load_backbone(NAME, device="cpu", threads=1).spec == preview


def test_weights_that_were_damaged_in_the_cache_are_refused_and_removed(hub: Hub) -> None:
    spec = backbone_spec(NAME)
    [link] = Path(hub.cache).glob("models--openai--clip-tiny/snapshots/*/model.safetensors")
    blob = link.resolve()
    blob.write_bytes(flip(blob.read_bytes()))
    hub.asked.clear()
    with pytest.raises(EnvironmentFault, match=rf"where the hub says {blob.name}.*fetches openai"):
        backbone_spec(NAME, offline=True)
    assert not blob.exists() and not link.is_symlink()
    assert hub.asked == []
    assert backbone_spec(NAME) == spec


def test_damaged_weights_that_lie_outside_of_the_cache_stay_where_they_are(
    hub: Hub, tmp_path: Path
) -> None:
    spec = backbone_spec(NAME)
    [link] = Path(hub.cache).glob("models--openai--clip-tiny/snapshots/*/model.safetensors")
    mine = tmp_path / link.resolve().name
    mine.write_bytes(flip(link.read_bytes()))
    link.resolve().unlink()
    link.unlink()
    link.symlink_to(mine)
    with pytest.raises(EnvironmentFault, match="where the hub says"):
        backbone_spec(NAME)
    assert mine.exists() and not link.is_symlink()
    assert backbone_spec(NAME) == spec


def test_damaged_weights_that_cannot_be_removed_are_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    backbone_spec(NAME)
    [link] = Path(hub.cache).glob("models--openai--clip-tiny/snapshots/*/model.safetensors")
    blob = link.resolve()
    blob.write_bytes(flip(blob.read_bytes()))
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(EnvironmentFault, match=rf"delete {blob}, which failed \(Permission denied"):
        backbone_spec(NAME, offline=True)


def test_a_model_that_is_the_wrong_one_is_refused_before_weights_are_fetched(hub: Hub) -> None:
    with pytest.raises(UsageError, match="cannot encode audio"):
        backbone_spec("hf:openai/clip-tiny+openai/clip-tiny")
    assert hub.fetched and all(small(path) for path in hub.fetched)


# --- before anything is fetched -------------------------------------------------------------------


def test_a_preview_is_the_description_and_fetches_no_weights(hub: Hub, hf_models: Models) -> None:
    said = Notebook()
    preview = preview_spec(NAME, watch=said)
    assert hub.fetched and all(small(path) for path in hub.fetched)
    sizes = [(hf_models[name] / "model.safetensors").stat().st_size for name in ("clip", "clap")]
    assert said.lines == [
        "would download, once: "
        f"model.safetensors ({sizes[0]:,} bytes, see the model's card, from "
        f"hub:openai/clip-tiny@{COMMIT}), model.safetensors ({sizes[1]:,} bytes, see the model's "
        f"card, from hub:laion/clap-tiny@{COMMIT})"
    ]
    assert backbone_spec(NAME) == preview
    again = Notebook()
    hub.asked.clear()
    assert preview_spec(NAME, watch=again) == preview
    assert again.lines == [] and hub.repo_requests() == []


def test_a_preview_knows_parts(hub: Hub, tmp_path: Path) -> None:
    changed_copy(
        hub, "openai/clip-tiny", tmp_path / "old", lambda folder: in_parts(folder, "safetensors")
    )
    preview = preview_spec(NAME, watch=Notebook())
    assert all(small(path) for path in hub.fetched)
    assert backbone_spec(NAME) == preview


def test_a_preview_needs_a_hub_that_says_hashes(hub: Hub) -> None:
    hub.hashes = False
    with pytest.raises(EnvironmentFault, match=r"does not say the hash of model\.safetensors"):
        preview_spec(NAME, watch=Notebook())


def test_a_preview_offline_asks_nobody(hub: Hub) -> None:
    with pytest.raises(EnvironmentFault, match="the network is not to be used"):
        preview_spec(NAME, offline=True, watch=Notebook())
    assert hub.asked == []
    preview_spec(NAME, watch=Notebook())
    hub.asked.clear()
    with pytest.raises(EnvironmentFault, match="clip-tiny is not on this machine"):
        preview_spec(NAME, offline=True, watch=Notebook())
    assert hub.asked == []


def test_a_dry_run_fetches_no_weights_and_says_what_it_would(
    hub: Hub, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = zoo["one_frame.mp4"].path
    words = ["extract", str(clip), "--out", str(tmp_path / "feats"), "--backbone", NAME]
    assert main([*words, "--dry-run"]) == 0
    assert "would download, once: model.safetensors" in capsys.readouterr().err
    assert hub.fetched and all(small(path) for path in hub.fetched)


def test_labels_need_encoders_with_texts_before_their_weights_are_fetched(
    hub: Hub, hf_models: Models, zoo: Zoo, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos["google/vit-tiny"] = hf_models["vit"]
    words = ["detect", str(zoo["one_frame.mp4"].path), "--labels", "dog"]
    assert main([*words, "--backbone", "hf:google/vit-tiny+laion/clap-tiny"]) == 2
    assert "a vit, has no text tower" in capsys.readouterr().err
    assert hub.fetched and all(small(path) for path in hub.fetched)
