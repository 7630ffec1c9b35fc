"""Texts of strangers that are made to stop or fill a machine: recipes, lists, cards, names."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from extractors.lite_spec import LITE
from fixtures.media import run_ffmpeg
from model.checkpoint import Card, card_path, load_network, read_card, save_checkpoint
from pipeline.cli import main
from pipeline.config import MOST_VALUES, load_recipe
from pipeline.core.errors import CheckpointError, ConfigError, UsageError
from tests.test_architecture import ROOT
from workflows.annotations import load_annotations
from workflows.inputs import find_media

DEEP = "[" * 200_000
HUGE = 10**400  # an integer, and no float


def of_aliases(line: str) -> str:
    """Ten lines, each of which names the one before nine times."""
    lines = ["a: &a {x: 1, y: 2}"]
    for before, name in pairwise("abcdefghijk"):
        lines.append(f"{name}: &{name} {line.format(*[f'*{before}'] * 9)}")
    return "\n".join(lines)


RECIPES = {
    "mappings of mappings": of_aliases("{{p: {}, q: {}, r: {}, s: {}, t: {}, u: {}, v: {}}}"),
    "merges of merges": of_aliases("{{<<: [{}, {}, {}, {}, {}, {}, {}, {}, {}]}}"),
    "a mapping in itself": "data: &a {features: *a}",
    "a list in itself": "data: &a [*a]",
    "merged with itself": "data: &a\n  <<: *a\n  b: 1",
    "deep lists": "data: " + DEEP,
    "deep mappings": "data: " + "{a: " * 20_000 + "}" * 20_000,
    "more digits than a float has": f"optim: {{lr: {HUGE}}}",
    "more digits than Python writes": "data: " + ":".join(["1", *["59"] * 5000]),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.timeout(60)
def test_a_recipe_that_is_made_to_harm_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPES[name])
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load_recipe(path)


def test_aliases_as_people_use_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "x: &lr {lr: 0.5}\noptim: {<<: *lr}\noutput: {folder: run}\n"
        "data: {annotations: a.json, features: s}"
    )
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert "line 1: x: unknown key" in str(caught.value), "nothing else is wrong with it"
    assert MOST_VALUES > 10_000


def annotations(tmp_path: Path, segment: str, duration: str = "10") -> Path:
    path = tmp_path / "truth.json"
    row = f'{{"segment": {segment}, "label": "x"}}'
    video = f'{{"subset": "train", "duration": {duration}, "annotations": [{row}]}}'
    path.write_text(f'{{"database": {{"v": {video}}}}}')
    return path


@pytest.mark.parametrize(
    ("segment", "duration"), [(f"[1, {HUGE}]", "10"), ("[1, 2]", str(HUGE)), (DEEP, "10")]
)
def test_annotations_that_are_made_to_harm_are_refused(
    tmp_path: Path, segment: str, duration: str
) -> None:
    with pytest.raises(ConfigError, match=r"truth\.json"):
        load_annotations(annotations(tmp_path, segment, duration))


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", DEEP), ("a.csv", f"path,{'x' * 200_000}\n"), ("a.csv", f"path\n{'x' * 200_000}")],
)
def test_a_manifest_that_is_made_to_harm_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=name):
        find_media([tmp_path / name])


SMALL = {"vision_dim": 8, "audio_dim": 8, "classes": 1}


def checkpoint(path: Path, **architecture: object) -> Path:
    card = Card({**SMALL, **architecture}, ("dog",), LITE.to_json(), LITE.digest)
    save_checkpoint(path, {}, card)
    card_path(path).unlink()
    return path


@pytest.mark.parametrize(
    "architecture",
    [{"channels": 1 << 15}, {"levels": 10**6}, {"unimodal_blocks": 10**7}],
    ids=str,
)
@pytest.mark.timeout(120)
def test_a_card_of_a_network_that_its_file_does_not_hold_builds_none(
    tmp_path: Path, architecture: dict[str, object]
) -> None:
    path = checkpoint(tmp_path / "net.safetensors", **architecture)
    with pytest.raises(CheckpointError, match=r"does not fit its card.*the file"):
        load_network(path)


@pytest.mark.parametrize("text", [DEEP, '{"architecture": [1], "classes": [], "backbone": {}}'])
def test_a_card_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = checkpoint(tmp_path / "net.safetensors")
    card_path(path).write_text(
        text if text == DEEP else json.dumps({**json.loads(text), "digest": "d"})
    )
    with pytest.raises(CheckpointError, match="does not hold the card"):
        read_card(path)


def test_the_command_sends_no_orders_to_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b]0;owned\x07.mp4"
    path.write_text("no film")
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "pipeline", "probe", str(path)]
    done = subprocess.run(words, stdout=slave, stderr=slave, cwd=ROOT, check=False)
    os.close(slave)
    said = b""
    with contextlib.suppress(OSError), os.fdopen(master, "rb", buffering=0) as screen:
        while block := screen.read(1 << 16):  # ends with an error, as the other side is closed
            said += block
    assert done.returncode == 1 and rb"\x1b]0;owned\x07.mp4" in said and b"\x1b" not in said


def test_a_name_that_is_no_utf8_is_printed_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"bad\xff.wav")
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:d=1", path)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "probe", path],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        check=False,
    )
    assert done.returncode == 0 and rb"bad\udcff.wav" in done.stdout


def test_labels_that_are_half_characters_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = annotations(tmp_path, "[1, 2]")
    truth.write_text(truth.read_text().replace('"x"', r'"x\ud800"'))
    results = tmp_path / "results.json"
    results.write_text('{"results": {"v": []}}')
    words = ["eval", "--predictions", str(results), "--annotations", str(truth)]
    assert main([*words, "--subset", "train", "--per-class"]) == 0
    assert r"x\ud800" in capsys.readouterr().out
