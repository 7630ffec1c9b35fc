"""What strangers' files and names must not be able to do; one promise of operations each.

The page's escaping is tested in cli/test_report.py, checkpoints of others in extractors/.
"""

from __future__ import annotations

import ast
import http.server
import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from extractors.media.audio import open_audio
from extractors.media.probe import probe
from extractors.storage.store import FeatureStore
from fixtures.backbones import TOY, toy
from fixtures.media import run_ffmpeg
from pipeline.config import load_recipe
from pipeline.core.errors import ConfigError, MediaError, PipelineError
from tests.test_architecture import ROOT, SOURCES, module_name
from workflows.extraction.run import extract
from workflows.inputs import find_media

# Call -> a keyword that makes it safe, or None where nothing does.
DANGEROUS: dict[str, tuple[str, object] | None] = {
    "eval": None,
    "exec": None,
    "os.system": None,
    "os.popen": None,
    "marshal.loads": None,
    "pickle.load": None,
    "shelve.open": None,
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "tarfile.open": None,
    "shutil.unpack_archive": None,
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
}


def called(node: ast.Call) -> str:
    """Dotted name of what is called."""
    return ast.unparse(node.func)


def keyword(node: ast.Call, name: str) -> object:
    for entry in node.keywords:
        if entry.arg == name and isinstance(entry.value, ast.Constant):
            return entry.value.value
    return None


def dangers(tree: ast.AST) -> Iterator[str]:
    """Calls that would let a stranger's bytes decide what this program does."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        if name in DANGEROUS:
            safe = DANGEROUS[name]
            if safe is None or keyword(node, safe[0]) is not safe[1]:
                yield f"line {node.lineno}: {name}"
        if keyword(node, "shell") not in (None, False):
            yield f"line {node.lineno}: a shell"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_source_runs_what_it_reads(path: Path) -> None:
    assert list(dangers(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_the_check_sees_what_it_looks_for() -> None:
    bad = "eval(x)\ntorch.load(p)\nnp.load(p)\nsubprocess.run(c, shell=True)\nyaml.load(t)"
    good = "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nyaml.safe_load(t)"
    assert len(list(dangers(ast.parse(bad)))) == 5
    assert list(dangers(ast.parse(good))) == []


EVIL_IDS = ("../../evil", "/tmp/evil", "..", "a/../../evil", "C:\\evil", "evil\nname", "./evil")


@pytest.mark.parametrize("id", EVIL_IDS)
def test_no_id_leads_out_of_the_store(tmp_path: Path, id: str) -> None:
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    before = set(Path("/tmp").glob("evil*"))
    store = FeatureStore.create(folder / "store", TOY.spec)
    spec = toy().spec
    rows = {
        "vision": np.zeros((2, spec.vision.dim), np.float32),
        "audio": np.zeros((2, spec.audio.dim), np.float32),
    }
    try:
        with store.writer(id) as writer:
            writer.append(rows)
    except (PipelineError, ValueError):
        pass  # to refuse it is as good
    store.pack()
    outside = [path for path in tmp_path.rglob("*") if (folder / "store") not in path.parents]
    assert sorted(path.name for path in outside) == ["deep", "down", "store"]
    assert set(Path("/tmp").glob("evil*")) == before


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """An address that serves a clip, and the list of what was asked of it."""
    asked: list[str] = []
    clip = tmp_path / "served.ts"
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:d=1", "-c:a", "aac", clip)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(clip.read_bytes())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{url}/a.ts'\n",
    "local.ffconcat": "ffconcat version 1.0\nfile 'served.ts'\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
    'type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{url}/a.ts</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_list_of_other_files_reads_neither_the_network_nor_its_neighbours(
    tmp_path: Path, server: tuple[str, list[str]], name: str
) -> None:
    url, asked = server
    path = tmp_path / name
    path.write_text(PLAYLISTS[name].format(url=url))
    with pytest.raises(MediaError):
        probe(path)
    assert asked == []


def test_the_address_that_is_not_asked_would_have_answered(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    """Otherwise the test above could not fail."""
    url, asked = server
    run_ffmpeg("-i", f"{url}/a.ts", "-f", "null", "-")
    assert asked == ["/a.ts"]


@pytest.mark.parametrize("name", ["$(touch evil).wav", "; touch evil;.wav", "`touch evil`.wav"])
def test_a_file_name_is_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:d=1", "-f", "wav", f"file:{name}")
    with open_audio(probe(tmp_path / name)) as reader:
        assert sum(len(block) for block in reader) > 0
    assert not (tmp_path / "evil").exists()


def test_a_recipe_makes_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"data: !!python/object/apply:os.mkdir ['{tmp_path / 'evil'}']\n")
    with pytest.raises(ConfigError):
        load_recipe(path)
    assert not (tmp_path / "evil").exists()


def test_a_recipe_that_multiplies_itself_is_refused_without_growing(tmp_path: Path) -> None:
    """A few lines of aliases of aliases stand for a billion values."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    names = "abcdefghij"
    for before, name in pairwise(names):
        lines.append(f"{name}: &{name} [{', '.join(['*' + before] * 9)}]")
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*lines, "data: *j", "output: {folder: run}"]))
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("id", ["../../evil", "/abs/evil", "..\\evil"])
def test_a_manifest_cannot_write_outside_the_store(tmp_path: Path, id: str) -> None:
    clip = tmp_path / "in" / "clip.wav"
    clip.parent.mkdir()
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:d=1", clip)
    manifest = tmp_path / "in" / "list.jsonl"
    manifest.write_text(json.dumps({"path": str(clip), "id": id}) + "\n")
    try:
        items = find_media([manifest])
    except PipelineError:
        return  # to refuse it is as good
    assert [item.path for item in items] == [clip]
    out = tmp_path / "deep" / "features"
    assert extract([manifest], out, backbone=TOY).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "in"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["features"]


def test_a_store_whose_shards_are_links_is_not_written_through(tmp_path: Path) -> None:
    """Packing replaces by rename: a link to somebody's file is never followed for writing."""
    target = tmp_path / "precious.safetensors"
    target.write_bytes(b"precious")
    store = FeatureStore.create(tmp_path / "store", TOY.spec)
    shards = store.path / "shards"
    shards.mkdir(exist_ok=True)
    (shards / "00000.safetensors").symlink_to(target)
    clip = tmp_path / "clip.wav"
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:d=1", clip)
    assert extract([clip], store.path, backbone=TOY).exit_code == 0
    store.pack()
    assert target.read_bytes() == b"precious"
    assert FeatureStore.open(store.path).ids() == ["clip.wav"]


def test_the_sources_are_all_looked_at() -> None:
    assert len(SOURCES) > 100 and all(ROOT in path.parents for path in SOURCES)
