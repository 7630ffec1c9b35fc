"""`pipeline models`, and the options about weights of other commands, as a user meets them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from extractors import catalogue
from extractors.audio.onepeace import load_onepeace_audio
from extractors.registry import BACKBONES
from extractors.spec import WeightsFile
from extractors.weights import addresses
from extractors.weights.check import read_record
from fixtures.onepeace import TINY, write_base
from fixtures.weights_server import CONTENT, SHA256, Server, answer, break_off, serving
from pipeline.cli import main

HASHED = WeightsFile("net.pth", len(CONTENT), SHA256, "MIT", "https://example.org/net.pth")
UNHASHED = WeightsFile(
    "big.pth", 0, "", "MIT", "https://example.org/page", about_bytes=len(CONTENT)
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The publisher of the two files of a backbone more than the table has otherwise."""
    monkeypatch.setenv("PIPELINE_OFFLINE", "0")
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))
    lite = BACKBONES["lite"]
    vision, audio = (
        replace(encoder, weights=weights)
        for encoder, weights in ((lite.spec.vision, HASHED), (lite.spec.audio, UNHASHED))
    )
    planted = replace(lite, spec=replace(lite.spec, name="planted", vision=vision, audio=audio))
    monkeypatch.setattr(catalogue, "BACKBONES", {**BACKBONES, "planted": planted})
    with serving(Server()) as state:
        places = {
            file: (addresses.Address(f"{state.url}/{file}"),) for file in ("net.pth", "big.pth")
        }
        monkeypatch.setattr(addresses, "_ADDRESSES", places)
        yield state


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    code = main(["models", *words])
    return code, json.loads(capsys.readouterr().out)


# --- the list -------------------------------------------------------------------------------------


def test_the_list_names_every_file_and_what_is_missing(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line for line in said.splitlines()}
    assert "package" in rows["efficientnet-lite0-57934424.pth"]
    assert "lite" in rows["efficientnet-lite0-57934424.pth"]
    for part in ("~6.6 GB", "Apache-2.0", "missing", "onepeace, onepeace-fp16"):
        assert part in rows["onepeace_video_k400.pth"]
    assert server.asked == []


def test_the_list_for_machines_says_null_for_what_is_unknown(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = run_json(capsys, "--json")
    assert code == 0
    found = {row["file"]: row for row in rows}
    assert found["big.pth"]["bytes"] is None
    assert found["big.pth"]["sha256"] is None
    assert found["net.pth"]["path"] is None
    assert found["YamNet_w8a8.onnx.zip"]["where"] == "package"


# --- fetch ----------------------------------------------------------------------------------------


def test_fetching_says_where_the_file_is(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "fetch", "net.pth"]) == 0
    path = tmp_path / "cache" / "weights" / "net.pth"
    assert str(path) in capsys.readouterr().out
    assert path.read_bytes() == CONTENT
    assert "cache" in next(row for row in listed(capsys) if row.startswith("net.pth"))


def listed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["models"]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_folder_and_a_mirror_can_be_named(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Server()) as mirror:
        words = ("fetch", "net.pth", "--mirror", mirror.url, "--weights-dir", str(tmp_path / "w"))
        code, rows = run_json(capsys, *words, "--json")
        assert len(mirror.asked) == 1
    assert (code, rows[0]["path"]) == (0, str(tmp_path / "w" / "net.pth"))
    assert server.asked == []


@pytest.mark.parametrize(
    "mirror", ["http://192.0.2.1/weights", "ftp://example.org", "/mnt/weights"]
)
def test_a_mirror_needs_a_secure_address(
    mirror: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "fetch", "net.pth", "--mirror", mirror]) == 2
    assert "no https address" in capsys.readouterr().err
    assert server.asked == []


def test_a_file_without_a_hash_is_said_to_be_one(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Server()) as mirror:
        assert main(["models", "fetch", "big.pth", "--mirror", mirror.url]) == 0
        assert mirror.asked == []
    said = capsys.readouterr().err
    assert "no mirror is asked" in said
    assert SHA256 in said
    record = read_record(tmp_path / "cache" / "weights" / "big.pth")
    assert record is not None
    assert record.sha256 == SHA256


def test_a_mirror_serves_a_file_without_a_hash_where_the_user_gives_one(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cache" / "weights" / "big.pth"
    with serving(Server()) as mirror:
        words = ["models", "fetch", "big.pth", "--mirror", mirror.url, "--sha256", SHA256.upper()]
        assert main(words) == 0
        assert len(mirror.asked) == 1
        record = read_record(path)
        assert record is not None and record.given and not record.published
        assert main(words) == 0  # what is there is compared, and not fetched again
        assert len(mirror.asked) == 1
    assert server.asked == []
    assert "of the SHA-256 that was given" in capsys.readouterr().err
    _, [row] = run_json(capsys, "verify", "big.pth", "--json")
    assert row["verdict"] == (
        f"ok (SHA-256 {SHA256}, as it was given when it was fetched; no hash is published)"
    )
    path.write_bytes(CONTENT[::-1])
    assert main(["models", "verify", "big.pth"]) == 3
    assert f"where {SHA256} came from {mirror.url}" in capsys.readouterr().err


def test_what_has_another_hash_than_the_user_gives_is_refused_wherever_it_comes_from(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Server()) as mirror:
        words = ("fetch", "big.pth", "--mirror", mirror.url, "--sha256", "0" * 64)
        code, [row] = run_json(capsys, *words, "--json")
        assert len(mirror.asked) == len(server.asked) == 1
    assert code == 3
    assert row["error"].count(f"what it serves has SHA-256 {SHA256}") == 2
    assert list((tmp_path / "cache" / "weights").glob("big*")) == []


def test_a_file_that_was_copied_by_hand_is_held_to_the_hash_that_the_user_gives(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "big.pth"
    path.write_bytes(CONTENT)
    words = ["--weights-dir", str(tmp_path)]
    assert main(["models", "fetch", "big.pth", "--sha256", SHA256, *words]) == 0
    assert server.asked == []
    capsys.readouterr()
    _, [row] = run_json(capsys, "verify", "big.pth", "--json", *words)
    assert row["verdict"].startswith(f"ok (SHA-256 {SHA256}, as it was given")
    path.write_bytes(CONTENT[::-1])
    assert main(["models", "verify", "big.pth", *words]) == 3
    assert main(["models", "fetch", "big.pth", "--sha256", SHA256, *words]) == 0
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (["big.pth", "net.pth"], SHA256, "the hash of one file, not of big.pth, net.pth"),
        (["big.pth"], "abc", "'abc' is no SHA-256 (it has 64 hexadecimal digits)"),
        (["net.pth"], "0" * 64, f"is not that of net.pth: SHA-256 {SHA256} is published"),
    ],
    ids=["two", "short", "other"],
)
def test_a_hash_that_cannot_be_right_is_a_usage_error(
    names: list[str],
    given: str,
    said: str,
    server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models", "fetch", *names, "--sha256", given]) == 2
    assert said in capsys.readouterr().err
    assert server.asked == []


def test_offline_nothing_is_fetched_and_what_is_here_is_enough(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "fetch", "net.pth", "--offline"]) == 3
    assert "the network is not to be used" in capsys.readouterr().err
    assert server.asked == []
    assert main(["models", "fetch", "net.pth"]) == 0
    assert main(["models", "fetch", "net.pth", "--offline", "--weights-dir", str(tmp_path)]) == 0
    assert (tmp_path / "net.pth").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_one_of_two_that_fails_is_exit_1_and_both_are_tried(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.plan = [answer(404)]
    assert main(["models", "fetch", "net.pth", "big.pth"]) == 1
    assert "answers 404" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "cache" / "weights").glob("*.pth")] == ["big.pth"]


def test_nothing_that_can_be_fetched_is_exit_3(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content = CONTENT[::-1]
    code, rows = run_json(capsys, "fetch", "net.pth", "--json")
    assert code == 3
    assert "what it serves has SHA-256" in rows[0]["error"]
    assert list((tmp_path / "cache" / "weights").glob("net*")) == []


def test_the_same_command_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.plan = [break_off(200_000), answer(404)]
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(["models", "fetch", "net.pth"]) == 3
    assert "the same command goes on there" in capsys.readouterr().err
    assert main(["models", "fetch", "net.pth"]) == 0
    assert server.ranges == ["", "bytes=200000-", "bytes=200000-"]


def test_an_unknown_name_is_a_usage_error(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "fetch", "nett.pth"]) == 2
    assert "did you mean 'net.pth'" in capsys.readouterr().err


# --- verify ---------------------------------------------------------------------------------------


def test_verify_without_names_looks_at_what_is_here(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["models", "fetch", "net.pth", "big.pth"])
    capsys.readouterr()
    code, rows = run_json(capsys, "verify", "--json")
    verdicts = {row["file"]: row["verdict"] for row in rows}
    assert code == 0
    assert set(verdicts) == {
        "efficientnet-lite0-57934424.pth",
        "YamNet_w8a8.onnx.zip",
        "net.pth",
        "big.pth",
    }
    assert verdicts["net.pth"] == f"ok (SHA-256 {SHA256})"
    assert verdicts["big.pth"].startswith("unknown (no hash is published; SHA-256 " + SHA256)


@pytest.mark.parametrize(
    ("file", "there"), [("net.pth", True), ("big.pth", True), ("net.pth", False)]
)
def test_verify_names_damaged_and_missing_files(
    file: str, there: bool, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if there:
        main(["models", "fetch", file])
        path = tmp_path / "cache" / "weights" / file
        state = path.stat()
        path.write_bytes(b"x" + CONTENT[1:])
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # verify reads all the same
    assert main(["models", "verify", file]) == 3
    said = capsys.readouterr().err
    assert file in said
    assert ("has SHA-256" if there else "is not on this machine") in said


def test_verify_finds_the_embedded_weights_intact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify", "lite"]) == 0
    assert capsys.readouterr().out.count(": ok (SHA-256") == 2


# --- converted branches ---------------------------------------------------------------------------


@pytest.fixture
def converted(server: Server, tmp_path: Path) -> Path:
    """A branch of ONE-PEACE in the cache, without the checkpoint that it was made of."""
    weights = tmp_path / "cache" / "weights"
    weights.mkdir(parents=True)
    checkpoint = write_base(weights)
    load_onepeace_audio(torch.device("cpu"), size=TINY, threads=1)
    checkpoint.unlink()
    return weights / "onepeace-audio.safetensors"


def test_converted_branches_are_listed_where_they_are(
    converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {row.split()[0]: row for row in listed(capsys)}
    words = rows[converted.name].split()
    size = converted.stat().st_size / 1e3
    assert words[1:5] == [f"{size:.1f}", "kB", "Apache-2.0", "cache"]
    assert "onepeace, onepeace-fp16, onepeace-bf16" in rows[converted.name]
    assert "missing" in rows["one-peace.pt"]
    assert "onepeace-video.safetensors" not in rows
    _, entries = run_json(capsys, "--json")
    [entry] = [row for row in entries if row["file"] == converted.name]
    assert entry["conversion"] and entry["path"] == str(converted)
    assert entry["source"] == "made of one-peace.pt"


def test_converted_branches_are_verified(
    converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = run_json(capsys, "verify", "--json")
    verdicts = {row["file"]: row["verdict"] for row in rows}
    assert verdicts[converted.name].startswith("ok (SHA-256 of its tensors ")
    assert main(["models", "verify", "onepeace"]) == 1  # the picture's checkpoint is not here
    said = capsys.readouterr()
    assert f"{converted.name}: ok" in said.out
    assert "onepeace_video_k400.pth is not on this machine" in said.err
    assert "one-peace.pt" not in said.err
    content = bytearray(converted.read_bytes())
    content[-50] ^= 1
    converted.write_bytes(content)
    assert main(["models", "verify", converted.name]) == 3
    assert "its tensors have SHA-256" in capsys.readouterr().err


def test_a_branch_is_converted_and_never_fetched(
    converted: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "fetch", converted.name]) == 2
    assert "it is made of one-peace.pt" in capsys.readouterr().err
    converted.unlink()
    assert main(["models", "verify", converted.name]) == 3
    assert "is not on this machine (it is made of one-peace.pt)" in capsys.readouterr().err
    assert server.asked == []


def test_a_checkpoint_whose_branch_is_converted_is_not_fetched_for_a_backbone(
    converted: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = converted.with_name("onepeace-video.safetensors")
    video.write_bytes(converted.read_bytes())
    code, rows = run_json(capsys, "fetch", "onepeace", "--offline", "--json")
    assert code == 0
    assert {row["file"]: row["path"] for row in rows} == {
        "onepeace_video_k400.pth": str(video),
        "one-peace.pt": str(converted),
    }
    assert all("converted already" in row["verdict"] for row in rows)
    # Named itself, for a folder that lacks it, or for a damaged one, the checkpoint is wanted.
    assert main(["models", "fetch", "one-peace.pt", "--offline"]) == 3
    words = ["models", "fetch", "onepeace", "--offline"]
    assert main([*words, "--weights-dir", str(tmp_path / "other")]) == 3
    video.write_bytes(video.read_bytes()[:100])
    assert main(words) == 1
    assert "onepeace_video_k400.pth" in capsys.readouterr().err


# --- other commands -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a wrong file; the network is allowed, and leads nowhere."""
    monkeypatch.setenv("PIPELINE_OFFLINE", "0")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "i3d_rgb.pt").write_bytes(b"something else")
    return folder


def recipe(folder: Path, clip: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(
        f"data:\n  annotations: a.json\n  features: feats\n  videos: ['{clip}']\n"
        "backbone: {name: i3d-rgb-vggish}\noutput: {folder: run}\n"
    )
    return path


@pytest.mark.parametrize("command", ["extract", "dask", "detect", "run"])
def test_the_folder_and_the_ban_of_the_network_reach_whoever_loads_weights(
    command: str,
    folder: Path,
    tmp_path: Path,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    backbone = ["--backbone", "i3d-rgb-vggish"]
    words = {
        "extract": ["extract", str(clip), "--out", str(tmp_path / "feats"), *backbone],
        "dask": [
            *("extract", str(clip), "--out", str(tmp_path / "feats"), *backbone),
            *("--scheduler", "dask", "--workers", "1"),
        ],
        "detect": ["detect", str(clip), *backbone],
        "run": ["run", "--stage", "extract", "--config", str(recipe(tmp_path, clip))],
    }[command]
    words += ["--device", "cpu"]
    monkeypatch.chdir(tmp_path)
    if command != "dask":  # starting workers takes its time
        assert main([*words, "--offline", "--weights-dir", folder.name]) == 3
        assert f"{folder.name}/i3d_rgb.pt has git blob" in capfd.readouterr().err
    (folder / "i3d_rgb.pt").unlink()
    assert main([*words, "--offline", "--weights-dir", folder.name]) == 3
    said = capfd.readouterr().err
    assert "the network is not to be used" in said
    assert "fetching" not in said


@pytest.mark.parametrize(
    "name", ["unav100-i3d-vggish", "imported:mine:8x4:16-16-4", "simulated:4x4:0123456789ab"]
)
@pytest.mark.parametrize("dry_run", [True, False], ids=["dry-run", "run"])
def test_features_that_no_encoder_makes_are_refused_before_a_store_is_made(
    name: str, dry_run: bool, tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "feats"
    words = ["extract", str(clip), "--out", str(out), "--backbone", name]
    assert main([*words, "--dry-run"] if dry_run else words) == 2
    assert "encoder" in capsys.readouterr().err
    assert not out.exists()


def test_a_backbone_that_is_not_here_and_offline_says_how_to_get_it(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", str(clip), "--out", str(tmp_path / "feats"), "--backbone", "onepeace"]
    assert main([*words, "--offline"]) == 3
    said = capsys.readouterr().err
    for part in ("onepeace_video_k400.pth", "Apache-2.0", "no published hash", "models fetch"):
        assert part in said
