"""Files of strangers that are made to stop, to fill or to deceive whoever reads them.

What they may do is be refused, with the exit code of what is wrong; stores are in
extractors/test_store_strangers.py, what runs code or leaves its folder is in test_security.py.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractors.checkpoints.stored_tensor import CheckpointFault
from extractors.checkpoints.torch_file import open_checkpoint
from extractors.layouts import arrays
from extractors.layouts.arrays import ArrayFault, read_array
from extractors.storage.records import fingerprint
from extractors.storage.store import FeatureStore
from extractors.weights.check import read_record, record_path
from fixtures.backbones import TOY
from fixtures.media import run_ffmpeg
from pipeline.cli import main
from pipeline.core.errors import MediaError
from pipeline.core.events import Curves, Detections, Event
from pipeline.core.partial import PartialFile
from pipeline.core.terminal import plain_output, shown
from pipeline.formats import read, write, write_folder
from pipeline.formats.cells import guard, unguard
from workflows.extraction.run import extract

HUGE = 10**400  # an integer, and no float
DEEP = "[" * 200_000
PATIENCE_S = 60


# --- files of events ------------------------------------------------------------------------------


def events_file(path: Path, *, event: dict[str, object] | None = None, **video: object) -> Path:
    """Our own format, with some values of the video or of its event replaced."""
    row = {"label": "x", "start": 1, "end": 2, "score": 1, **(event or {})}
    entry = {"video": "v", "duration": 10, "detector": "d", "notes": [], "events": [row], **video}
    value = {"format": "davel-events", "version": 1, "videos": [entry]}
    path.write_text(json.dumps(value))
    return path


def eaf(milliseconds: int) -> str:
    slot = f'<TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="{milliseconds}"/>'
    row = '<ALIGNABLE_ANNOTATION TIME_SLOT_REF1="a" TIME_SLOT_REF2="a"/>'
    tier = f'<TIER TIER_ID="t"><ANNOTATION>{row}</ANNOTATION></TIER>'
    return f"<ANNOTATION_DOCUMENT><TIME_ORDER>{slot}</TIME_ORDER>{tier}</ANNOTATION_DOCUMENT>"


LONG = "x" * 200_000
TRUTH = '{"database": {"v": {"annotations": [{"label": "x", "segment": [1, %s]}]}}}'
EVENT_FILES = {
    "deep.json": DEEP,
    "deep.csv": f"label,start,end\n{LONG},1,2\n",
    "head.csv": f"{LONG},start,end\n",
    "far.csv": "label,start,end\nx,1,1e300\n",
    "far.txt": "1\t1e300\tx\n",
    "far.eaf": eaf(10**30),
    "huge.eaf": eaf(HUGE),
    "huge.json": TRUTH % HUGE,
    "far.json": TRUTH % 1e308,
}
FORMATS = "json,csv,srt,vtt,audacity,elan,activitynet,html"


@pytest.mark.parametrize("name", EVENT_FILES)
def test_events_that_no_video_has_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text(EVENT_FILES[name])
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / name), "--to", FORMATS, "--out", str(out)]) == 2
    assert name in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("value", [HUGE, 1e308, float("inf"), float("nan")], ids=range(4))
@pytest.mark.parametrize("place", ["duration", "end"])
def test_seconds_that_no_video_has_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, value: float
) -> None:
    given: dict[str, Any] = (
        {"duration": value} if place == "duration" else {"event": {place: value}}
    )
    path = events_file(tmp_path / "a.json", **given)
    assert main(["convert", str(path), "--to", FORMATS, "--out", str(tmp_path / "out")]) == 2
    assert "a.json is no json file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "video", ["a\0b", "a\ud800b", "long " * 1000, "ö" * 300, "../../../up/..", "/", "a/b\n"]
)
def test_a_video_may_have_a_name_that_no_file_can_have(tmp_path: Path, video: str) -> None:
    out = tmp_path / "deep" / "out"
    path = events_file(tmp_path / "a.json", video=video)
    assert main(["convert", str(path), "--to", FORMATS, "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == len(FORMATS.split(","))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "deep"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_long_names_that_begin_alike_stay_apart(tmp_path: Path) -> None:
    """Names of 255 bytes are what downloaders make of titles."""
    videos = ["ö" * 120 + end + ".mp4" for end in ("a", "b")]
    entries = [Detections(video, 9.0, (), "d") for video in videos]
    paths = write_folder(entries, ["activitynet", "json"], tmp_path)
    assert len(set(paths)) == 4 and all(path.is_file() for path in paths)


# --- cells of spreadsheets ------------------------------------------------------------------------

FORMULAS = ("=1+1", "@SUM(A1)", "+HYPERLINK(1)", "-2+3+cmd|' /C calc'!A0", "\t=1", "\uff1d1", "'=1")
PLAIN = ("--HuBNHXu9I", "-abc/d e.mp4", "-1.5", "a=b", "'quoted'", "dog, barking", "+")


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula_and_none_is_changed_by_the_way_back(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "a.csv"
    entry = Detections(text, 9.0, (Event(1.0, 2.0, text, 1.0),), "d")
    write([entry], "csv", path)
    with path.open(newline="", encoding="utf-8") as handle:
        (row,) = csv.DictReader(handle)
    assert row["video"] == row["label"] == "'" + text
    (found,) = read(path)
    assert (found.video, found.events[0].label) == (text, text)
    stream, values = io.StringIO(), np.zeros((1, 1), np.float32)
    write([replace(entry, curves=Curves(np.zeros(1), (text,), values))], "curves", stream)
    (head, _) = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    assert head[1] == "'" + text


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_formula_stays_as_it_is(text: str) -> None:
    assert guard(text) == text and unguard(text) == text


# --- terminals ------------------------------------------------------------------------------------

ORDERS = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e4pm.\r"


def said_to_terminal(*lines: str) -> str:
    """What a terminal gets when lines are printed."""
    master, slave = pty.openpty()
    with (
        os.fdopen(slave, "w", encoding="utf-8") as terminal,
        contextlib.redirect_stdout(terminal),
        plain_output(),
    ):
        for line in lines:
            print(line)
    received = b""
    with contextlib.suppress(OSError), os.fdopen(master, "rb", buffering=0) as screen:
        while block := screen.read(1 << 16):  # ends with an error, as the other side is closed
            received += block
    return received.decode().replace("\r\n", "\n")  # what the terminal's driver makes of lines


def test_a_terminal_gets_no_orders_from_names() -> None:
    said = said_to_terminal(f"failed {ORDERS}", "a\tb", "odd \udcff byte")
    assert said == f"failed {shown(ORDERS)}\na\tb\nodd \\udcff byte\n"
    assert shown(ORDERS) == r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e4pm.\r"
    assert said_to_terminal("\r 50 %") == "\r 50 %\n", "a bar that draws over itself"


def test_what_goes_elsewhere_goes_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with plain_output():
        print(ORDERS, "\udcff")
    assert capsys.readouterr().out == f"{ORDERS} \\udcff\n"
    assert sys.stdout is before
    with pytest.raises(UnicodeEncodeError):  # as before the block
        print("\udcff")


# --- what is no file ------------------------------------------------------------------------------


def make_odd(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
@pytest.mark.timeout(PATIENCE_S)
def test_a_pipe_or_a_device_among_videos_costs_itself_alone(tmp_path: Path, kind: str) -> None:
    """A pipe without a writer would be waited for, a device read until the memory is full."""
    folder = tmp_path / "in"
    folder.mkdir()
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:d=1", "-c:a", "pcm_s16le", folder / "good.avi")
    make_odd(folder / "odd.mp4", kind)
    with pytest.raises(MediaError, match="is a pipe or a device"):
        fingerprint(folder / "odd.mp4")
    report = extract([folder], tmp_path / "store", backbone=TOY)
    assert {row.id: row.outcome for row in report.rows} == {"good.avi": "done", "odd.mp4": "failed"}


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.timeout(PATIENCE_S)
def test_a_pipe_or_a_device_is_no_feature_file(tmp_path: Path, kind: str, name: str) -> None:
    make_odd(tmp_path / name, kind)
    with pytest.raises(ArrayFault, match="is no file"):
        read_array(tmp_path / name, "vision" if name.endswith("z") else "")


# --- films that refer to others -------------------------------------------------------------------


def refer_to(film: Path, other: Path) -> None:
    """Let the first track of a QuickTime file, whose index comes last, lie in another file."""
    data, way, low = bytearray(film.read_bytes()), [], 0
    for wanted in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        while data[low + 4 : low + 8] != wanted:
            low += int.from_bytes(data[low : low + 4], "big")
        way.append(low)
        low += 8
    high = way[-1] + int.from_bytes(data[way[-1] : way[-1] + 4], "big")
    path, name = str(other).encode(), other.name.encode()
    alias = bytes(10) + b"\x03" + b"vol".ljust(27, b"\0") + bytes(12)
    alias += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 1, 0)
    alias += bytes(16)
    for kind in (2, 18):  # the path as the old and as the new system write it
        alias += struct.pack(">hH", kind, len(path)) + path + bytes(len(path) % 2)
    alias += struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    table = struct.pack(">II", 0, 1) + entry
    longer = len(table) - (high - low)
    data[low:high] = table
    for box in way:
        data[box : box + 4] = struct.pack(">I", int.from_bytes(data[box : box + 4], "big") + longer)
    film.write_bytes(data)


def test_a_film_that_lies_in_another_file_does_not_open_it(tmp_path: Path) -> None:
    """A pipe stands for the other file: to open it would be to wait for a writer."""
    film, other = tmp_path / "film.mov", tmp_path / "other.mov"
    sources = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=1", "-f", "lavfi", "-i", "sine=d=1")
    run_ffmpeg(*sources, "-c:v", "mpeg4", "-c:a", "aac", film)
    shutil.copy(film, other)
    refer_to(film, other)
    follow = ("-enable_drefs", "1", "-use_absolute_path", "1")
    count = ("-map", "0:v", "-f", "framecrc", tmp_path / "frames")
    run_ffmpeg(*follow, "-i", film, *count)
    assert (tmp_path / "frames").read_text().count("\n0,") > 0, "it can be followed"
    other.unlink()
    os.mkfifo(other)
    script = "import sys; from pipeline.cli import main; sys.exit(main(['probe', sys.argv[1]]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(film)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "picture    none" in done.stdout
    report = extract([film], tmp_path / "store", backbone=TOY)
    assert [row.outcome for row in report.rows] == ["done"]
    assert FeatureStore.open(tmp_path / "store").summary("film.mov").coverage.keys() == {"audio"}


# --- archives -------------------------------------------------------------------------------------


def test_an_array_that_a_few_bytes_stand_for_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "a.npz"
    still = np.zeros((1024, 1024), np.float32)
    np.savez_compressed(path, vision=still, audio=still[:8])
    with pytest.raises(ArrayFault, match="more than 200 times as many"):
        read_array(path, "vision")
    assert read_array(path, "audio").shape == (8, 1024), "small ones may be of silence"
    noise = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)
    np.savez_compressed(path, vision=noise)
    np.testing.assert_array_equal(read_array(path, "vision"), noise)


def test_the_word_for_the_order_of_bytes_fills_no_memory(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    torch.save({"a": torch.ones(3)}, good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            if not info.filename.endswith("byteorder"):
                new.writestr(info, old.read(info))
        with new.open(f"{info.filename.split('/')[0]}/byteorder", "w") as member:
            for _ in range(256):
                member.write(bytes(1 << 20))
    with pytest.raises(CheckpointFault, match="big-endian"), open_checkpoint(bad):
        pass
    assert traced_peak(bad) < 16 << 20


def traced_peak(path: Path) -> int:
    """Bytes of Python's memory that the reader holds at its peak."""
    import tracemalloc

    tracemalloc.start()
    try:
        with contextlib.suppress(CheckpointFault), open_checkpoint(path):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- notes beside weights -------------------------------------------------------------------------


def test_notes_beside_weights_may_hold_anything(tmp_path: Path) -> None:
    weights = tmp_path / "net.pth"
    record_path(weights).write_text(DEEP)
    assert read_record(weights) is None
    for text in (DEEP, f'{{"durable": {HUGE}}}', '{"durable": 1e999}'):
        (tmp_path / "net.pth.part").write_bytes(b"some")
        (tmp_path / "net.pth.part.json").write_text(text)
        assert PartialFile(weights).size in (0, 4)
