"""What strangers' files and names must not be able to do; one promise of operations each.

The page's escaping is tested in cli/test_report.py, checkpoints of others in extractors/.
"""

from __future__ import annotations

import ast
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import extractors.media.ffmpeg as ffmpeg_module
import extractors.media.probe as probe_module
from extractors.media.audio import open_audio
from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from extractors.media.video import ReaderChoice, open_video
from extractors.storage.store import FeatureStore
from fixtures.backbones import TOY, toy
from fixtures.media import run_ffmpeg
from pipeline.cli import main
from pipeline.config import load_recipe
from pipeline.core.errors import ConfigError, MediaError, PipelineError, StoreError
from tests.test_architecture import ROOT, SOURCES, module_name
from workflows.extraction.run import extract
from workflows.inputs import find_media

# What runs what it reads -> a keyword that makes it safe, or None where nothing does.
DANGEROUS: dict[str, tuple[str, object] | None] = {
    **dict.fromkeys(("eval", "exec", "__import__", "os.system", "os.popen")),
    **dict.fromkeys(("subprocess.getoutput", "subprocess.getstatusoutput")),
    **dict.fromkeys(("runpy.run_path", "runpy.run_module", "code.interact")),
    **dict.fromkeys(("pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler")),
    **dict.fromkeys(("pandas.read_pickle", "joblib.load", "torch.jit.load", "torch.hub.load")),
    **dict.fromkeys(("torch.package.PackageImporter", "torch.serialization.load")),
    **dict.fromkeys(("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all")),
    **dict.fromkeys(("yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.Loader", "yaml.CLoader")),
    **dict.fromkeys(("yaml.FullLoader", "yaml.UnsafeLoader")),
    **dict.fromkeys(("tarfile.open", "tarfile.TarFile", "shutil.unpack_archive")),
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
# Of these, nothing at all.
DANGEROUS_MODULES = {"_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
ALLOWED = {
    ("extractors.checkpoints.unpickle", "pickle.Unpickler"): "every name is looked up in tables, "
    "none is imported; test_unpickle.py tries what strangers may write",
    ("workflows.tasks", "pickle.loads"): "reads what the same line has pickled: an error of ours, "
    "to see whether it could travel to another process",
}


def imported_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for, wherever the statement is."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return names


def dotted(node: ast.AST) -> str:
    """What is read, as ``a.b.c``; "" where it is no such thing."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else ""


def keyword(node: ast.Call, name: str) -> object:
    for entry in node.keywords:
        if entry.arg == name and isinstance(entry.value, ast.Constant):
            return entry.value.value
    return None


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of what would let a stranger's bytes decide what this program does.

    Not only calls count: a class may be made from it, or it may be handed to what calls it.
    """
    names = imported_names(tree)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and keyword(node, "shell") not in (None, False):
            yield node.lineno, "a shell"
        head, dot, rest = dotted(node).partition(".")
        name = names.get(head, head) + dot + rest
        if name in DANGEROUS:
            safe, call = DANGEROUS[name], calls.get(id(node))
            if safe is None or call is None or keyword(call, safe[0]) is not safe[1]:
                yield node.lineno, name
        elif name.split(".")[0] in DANGEROUS_MODULES and head in names:
            yield node.lineno, name


@cache
def dangers_of(path: Path) -> list[tuple[int, str]]:
    return list(dangers(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_source_runs_what_it_reads(path: Path) -> None:
    module = module_name(path)
    assert [entry for entry in dangers_of(path) if (module, entry[1]) not in ALLOWED] == []


def test_what_is_allowed_is_in_one_place_each_and_still_there() -> None:
    found = [(module_name(path), name) for path in SOURCES for _, name in dangers_of(path)]
    assert sorted(found) == sorted(ALLOWED)


BAD = """
eval(x)
pickle.loads(b)
torch.load(p)
np.load(p)
np.load(p, allow_pickle=True)
subprocess.run(c, shell=True)
yaml.load(t)
read(b)
map(pickle.load, files)
class Reader(pickle.Unpickler): pass
dill.loads(b)
s.open(p)
yaml.load(t, Loader=yaml.Loader)
"""
GOOD = """
torch.load(p, weights_only=True)
np.load(p, allow_pickle=False)
yaml.safe_load(t)
pickle.dumps(x)
model.eval()
re.compile(t)
subprocess.run(c)
"""
IMPORTS = """
import dill, os, pickle, re, subprocess, torch, yaml
import numpy as np
import shelve as s
from pickle import loads as read
"""


def test_the_check_sees_what_it_looks_for() -> None:
    before = IMPORTS.count("\n")
    for line in BAD.strip().splitlines():
        assert [place for place, _ in dangers(ast.parse(f"{IMPORTS}{line}"))], line
    assert {place - before for place, _ in dangers(ast.parse(IMPORTS + BAD.strip()))} == set(
        range(1, len(BAD.strip().splitlines()) + 1)
    )
    assert list(dangers(ast.parse(IMPORTS + GOOD))) == []


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


def make_clip(path: Path) -> None:
    """One second of picture and sound."""
    picture = ("-f", "lavfi", "-i", "color=lime:s=64x48:r=10:d=1")
    sound = ("-f", "lavfi", "-i", "sine=440:d=1")
    run_ffmpeg(*picture, *sound, "-c:v", "mpeg4", "-c:a", "aac", path)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "served.ts"
    make_clip(path)
    return path


@pytest.fixture(scope="session")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of sound."""
    path = tmp_path_factory.mktemp("tone") / "clip.wav"
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:d=1", path)
    return path


@pytest.fixture
def server(tmp_path: Path, clip: Path) -> Iterator[tuple[str, list[str]]]:
    """An address that serves a clip, and the list of what was asked of it."""
    asked: list[str] = []
    shutil.copy(clip, tmp_path)

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
    "key.m3u8": '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n'
    "#EXTINF:9,\nserved.ts\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{url}/a.ts'\n",
    "list.mkv": "ffconcat version 1.0\nfile '{url}/a.ts'\n",
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


def read_picture(info: MediaInfo, reader: ReaderChoice) -> int:
    with open_video(info, fps=Fraction(16), size=(32, 24), reader=reader) as video:
        return sum(len(block.frames) for block in video)


def read_sound(info: MediaInfo) -> int:
    with open_audio(info) as audio:
        return sum(len(block) for block in audio)


# Whatever opens a file by its name, past `probe`: the file may be another one by then.
READERS: dict[str, Callable[[MediaInfo], int]] = {
    "frames of ffmpeg": partial(read_picture, reader="ffmpeg"),
    "sound of ffmpeg": read_sound,
    "frames of decord": partial(read_picture, reader="decord"),
    "frames of either": partial(read_picture, reader="auto"),
}


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> MediaInfo:
    """What `probe` says of a clip that any reader would take."""
    path = tmp_path_factory.mktemp("good") / "clip.mp4"
    make_clip(path)
    return probe(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", [name for name, text in PLAYLISTS.items() if "{url}" in text])
def test_a_file_that_becomes_a_list_behind_probe_makes_no_reader_ask_the_network(
    tmp_path: Path, server: tuple[str, list[str]], good: MediaInfo, name: str, reader: str
) -> None:
    url, asked = server
    path = tmp_path / name
    path.write_text(PLAYLISTS[name].format(url=url))
    with pytest.raises(MediaError):
        READERS[reader](replace(good, path=path))
    assert asked == []


def test_the_address_that_is_not_asked_would_have_answered(
    server: tuple[str, list[str]],
) -> None:
    """Otherwise the tests above could not fail."""
    url, asked = server
    run_ffmpeg("-i", f"{url}/a.ts", "-f", "null", "-")
    assert asked == ["/a.ts"]
    script = "import decord, sys; decord.VideoReader(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, f"{url}/b.ts"], capture_output=True, check=False)
    assert "/b.ts" in asked


@pytest.mark.parametrize("reader", ["probe", "frames of ffmpeg", "sound of ffmpeg"])
def test_without_the_limit_to_local_files_the_network_is_asked(
    tmp_path: Path,
    server: tuple[str, list[str]],
    good: MediaInfo,
    monkeypatch: pytest.MonkeyPatch,
    reader: str,
) -> None:
    """It is that limit which holds, and not a slip in these lists."""
    url, asked = server
    for module in (ffmpeg_module, probe_module):
        monkeypatch.setattr(module, "PROTOCOLS", "file,pipe,http,tcp")
    monkeypatch.setattr(probe_module, "MEDIA", f"{probe_module.MEDIA},hls")
    path = tmp_path / "hls.m3u8"
    path.write_text(PLAYLISTS["hls.m3u8"].format(url=url))
    if reader == "probe":
        with pytest.raises(MediaError):  # a list is no media file, however far it was read
            probe(path)
    else:
        assert READERS[reader](replace(good, path=path)) > 0
    assert "/a.ts" in asked


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


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of somebody's, with files of the names that stores have."""
    folder = tmp_path / "victim"
    folder.mkdir()
    for name in ("model.safetensors", "mine.jsonl", "generation", ".1.0.part"):
        (folder / name).write_bytes(b"precious " * 100)
        os.utime(folder / name, (0, 0))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


PARTS = ("videos", "shards", "ledger", "locks", "index.sqlite", "store.json")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dangling", [False, True])
def test_no_part_of_a_store_may_lead_out_of_it(
    tmp_path: Path,
    tone: Path,
    victim: Path,
    part: str,
    dangling: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A store from a stranger: what is repaired, extracted or packed there must stay there."""
    store = FeatureStore.create(tmp_path / "store", TOY.spec)
    description = (store.path / "store.json").read_bytes()
    link, target = store.path / part, victim
    if "." in part or part == "locks":
        target = victim / part
        target.write_bytes(description if part == "store.json" else b"")
    link.unlink(missing_ok=True)
    if dangling:
        target = victim / "made by a write through the link"
    link.symlink_to(target)
    before = contents(victim)
    asked: list[Callable[[], object]] = [
        lambda: FeatureStore.open(store.path),
        lambda: FeatureStore.create(store.path, TOY.spec),
        lambda: extract([tone], store.path, backbone=TOY),
    ]
    for ask in asked:
        with pytest.raises(StoreError, match=rf"{part} is a link|holds files but no feature store"):
            ask()
    for words in ("show", "verify", "repair"):
        assert main(["features", words, str(store.path)]) != 0
        assert "is a link" in capsys.readouterr().err
    assert contents(victim) == before and link.is_symlink()


def test_a_whole_store_may_be_reached_by_a_link(tmp_path: Path, tone: Path) -> None:
    FeatureStore.create(tmp_path / "large disk" / "store", TOY.spec)
    (tmp_path / "store").symlink_to(tmp_path / "large disk" / "store")
    assert extract([tone], tmp_path / "store", backbone=TOY).exit_code == 0
    store = FeatureStore.open(tmp_path / "store")
    assert store.pack() == 1 and store.ids() == ["clip.wav"]


@pytest.mark.parametrize("target", ["precious.safetensors", "nowhere"])
def test_a_link_in_place_of_a_shard_is_neither_read_nor_written_through(
    tmp_path: Path, tone: Path, target: str
) -> None:
    """Nor are videos missed without a word that an honest link would lead to."""
    precious = tmp_path / "precious.safetensors"
    precious.write_bytes(b"precious")
    store = FeatureStore.create(tmp_path / "store", TOY.spec)
    link = store.path / "shards" / "00000.safetensors"
    link.parent.mkdir()
    link.symlink_to(tmp_path / target)
    asked: list[Callable[[], object]] = [
        store.ids,
        store.repair,
        lambda: extract([tone], store.path, backbone=TOY),
    ]
    for ask in asked:
        with pytest.raises(StoreError, match=r"00000\.safetensors is a link"):
            ask()
    assert link.is_symlink() and precious.read_bytes() == b"precious"
    link.unlink()
    assert extract([tone], store.path, backbone=TOY).exit_code == 0
    assert FeatureStore.open(store.path).ids() == ["clip.wav"]


def test_the_sources_are_all_looked_at() -> None:
    assert len(SOURCES) > 100 and all(ROOT in path.parents for path in SOURCES)
