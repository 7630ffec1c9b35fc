"""The command line as a user meets it: exit codes, and one clear sentence for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS, main


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words], capture_output=True, text=True, cwd=cwd
    )


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on standard error, held to the form of an error message."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: pipeline" in capsys.readouterr().out


def test_no_command_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2


def test_a_missing_file_is_named_and_exits_with_nothing_matched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", str(tmp_path / "nobody.mp4")]) == 4
    assert "nobody.mp4" in sentence(capsys)


def test_a_folder_without_videos_exits_with_nothing_matched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    assert main(["extract", str(tmp_path), "--out", str(tmp_path / "feats")]) == 4
    assert str(tmp_path) in sentence(capsys)


def test_an_unknown_backbone_is_a_usage_error_that_lists_the_known_ones(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", str(clip), "--out", str(tmp_path / "feats"), "--backbone", "lit"]
    assert main(words) == 2
    assert "lite" in sentence(capsys)


def test_an_unknown_format_is_a_usage_error_that_lists_the_known_ones(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", str(clip), "--format", "jsn"]) == 2
    assert "json" in sentence(capsys)


def test_an_empty_file_and_a_text_file_fail_without_harming_their_neighbour(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a video")
    (folder / "good.mp4").write_bytes(clip.read_bytes())
    assert main(["extract", str(folder), "--out", str(tmp_path / "feats"), "--json"]) == 1
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)["videos"]}
    assert rows["good.mp4"]["outcome"] == "done"
    assert rows["empty.mp4"]["outcome"] == rows["text.mp4"]["outcome"] == "failed"
    assert all(rows[name]["reason"] for name in ("empty.mp4", "text.mp4"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_named(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked.mp4"
    locked.write_bytes(clip.read_bytes())
    locked.chmod(0)
    assert main(["detect", str(locked)]) == 1
    assert "locked.mp4" in sentence(capsys)


def test_detect_prints_json_on_standard_output(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", str(clip), "--format", "json", "--out", "-"]) == 0
    assert "events" in capsys.readouterr().out


def test_probe_shows_both_streams(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", str(clip), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["video"]["codec"] == "h264"
    assert shown["audio"]["sample_rate"] > 0


def test_probe_reports_a_bad_file_and_still_shows_the_good_one(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no")
    assert main(["probe", str(bad), str(clip)]) == 1
    said = capsys.readouterr()
    assert "bad.mp4" in said.err
    assert "h264" in said.out


def test_doctor_finds_nothing_missing_in_a_complete_installation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = {row["subject"]: row["verdict"] for row in json.loads(capsys.readouterr().out)}
    assert findings["ffmpeg"] == findings["weights of lite"] == "ok"


def test_an_error_shows_its_traceback_only_when_asked(tmp_path: Path) -> None:
    quiet = run("detect", str(tmp_path / "nobody.mp4"))
    loud = run("detect", "--debug", str(tmp_path / "nobody.mp4"))
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


def test_the_python_api_in_three_lines(clip: Path) -> None:
    import pipeline

    detector = pipeline.load_detector()
    detections = detector(clip)
    assert detections.duration == pytest.approx(2.0, abs=0.1)
    assert all(0 <= event.start <= event.end <= detections.duration for event in detections.events)
