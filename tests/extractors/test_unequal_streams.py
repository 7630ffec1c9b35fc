"""Picture and sound of unequal length, in every container: whole, and masked where one is not.

What begins or ends apart from the other is neither damage nor silence: the masks tell.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from extractors.media.probe import probe
from extractors.media.starts import believed_start, earlier_zero, first_stamps
from extractors.stream import extract_features
from fixtures.backbones import toy
from fixtures.media import OPUS, run_ffmpeg
from fixtures.oddities import ODDITIES

Span = tuple[float, float]
SECONDS = 16.0
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "50")
VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8")
MPEG2 = ("-c:v", "mpeg2video")
AAC, MP3 = ("-c:a", "aac"), ("-c:a", "libmp3lame")
FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mp4": (H264, AAC),
    "mkv": (H264, AAC),
    "untagged.mkv": (H264, AAC),
    "untagged.webm": (VP8, OPUS),
    "flv": (H264, AAC),
    "wmv": (("-c:v", "wmv2"), ("-c:a", "wmav2")),
    "asf": (H264, MP3),
    "ts": (H264, AAC),
    "mpg": (MPEG2, ("-c:a", "mp2")),
    "ogv": (("-c:v", "libtheora"), ("-c:a", "libvorbis")),
    "vp8.ogg": (VP8, OPUS),
    "nut": (H264, MP3),
    "wtv": (MPEG2, ("-c:a", "mp2")),
}
# Second 9 is later than what libavformat looks at to learn of the streams of a file.
CASES: dict[str, tuple[Span | None, Span | None]] = {
    "equal": ((0, SECONDS), (0, SECONDS)),
    "short sound": ((0, SECONDS), (0, 7)),
    "short picture": ((0, 7), (0, SECONDS)),
    "late sound": ((0, SECONDS), (9, SECONDS)),
    "late picture": ((9, SECONDS), (0, SECONDS)),
    "late and short sound": ((0, SECONDS), (4, 9)),
    "sound alone": (None, (0, SECONDS)),
    "picture alone": ((0, SECONDS), None),
}


def make(folder: Path, kind: str, picture: Span | None, sound: Span | None) -> Path:
    """A file of that container with a moving picture and a hum, in their spans."""
    path = folder / f"clip.{kind}"
    video, audio = FORMATS[kind]
    inputs: list[str] = []
    maps: list[str] = []
    for span, source, kind_of, codec in (
        (picture, "testsrc2=s=64x48:r=25", "v", video),
        (sound, "sine=440:r=44100", "a", audio),
    ):
        if span is not None:
            maps += ["-map", f"{inputs.count('-i')}:{kind_of}", *codec]
            inputs += ["-itsoffset", str(span[0]), "-f", "lavfi"]
            inputs += ["-i", f"{source}:d={span[1] - span[0]}"]
    run_ffmpeg(*inputs, *maps, "-fps_mode", "passthrough", path)
    if kind.startswith("untagged"):  # as muxers other than ffmpeg's write them
        data = path.read_bytes()
        assert b"DURATION" in data
        path.write_bytes(data.replace(b"DURATION", b"UNTAGGED"))
    return path


def masked_span(mask: np.ndarray, second: float) -> Span | None:
    """First and last second of the steps in a mask, which must follow each other."""
    on = np.flatnonzero(mask)
    if not len(on):
        return None
    assert len(on) == on[-1] - on[0] + 1
    return float(on[0] * second), float(on[-1] * second + 1)


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (kind, case)
        for kind in FORMATS
        for case in CASES
        if kind in ("flv", "wmv") or "late" in case or "short" in case
    ],
)
def test_streams_of_unequal_length_are_whole_and_masked(
    tmp_path: Path, kind: str, case: str
) -> None:
    picture, sound = CASES[case]
    found = extract_features(make(tmp_path, kind, picture, sound), toy())
    summary = found.summary
    assert summary.status == "done", summary.notes
    assert summary.duration == pytest.approx(SECONDS, abs=0.2)
    assert not [note for note in summary.notes if "ends at" in note or "lost" in note]
    for name, span in (("vision", picture), ("audio", sound)):
        masked = masked_span(found[f"{name}_mask"], float(found.grid.step_seconds))
        if span is None:
            assert masked is None and name not in summary.coverage
        else:  # a step counts from half a window on
            assert masked == pytest.approx(span, abs=0.8)
            assert summary.coverage[name] > 0.99


@pytest.mark.parametrize("kind", ["flv", "wmv", "untagged.mkv", "untagged.webm"])
@pytest.mark.parametrize("case", ["short sound", "late sound"])
def test_a_file_that_was_broken_off_is_partial_whatever_its_streams_were(
    tmp_path: Path, kind: str, case: str
) -> None:
    """The header knows one length for all: that the longest reaches it shows that all is there."""
    path = make(tmp_path, kind, *CASES[case])
    data = path.read_bytes()
    for share in (0.6, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        summary = extract_features(path, toy()).summary
        assert summary.status == "partial", share
        assert any(f"promises {SECONDS:.0f}" in note for note in summary.notes), summary.notes


def test_a_stream_recorded_from_the_middle_of_a_broadcast_is_as_long_as_it_is(
    tmp_path: Path,
) -> None:
    """Timestamps count from when the broadcast began, for Opus in Ogg the length as well."""
    path = tmp_path / "radio.ogg"
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:d=6", *OPUS, "-output_ts_offset", "36000", path)
    found = extract_features(path, toy())
    assert found.summary.status == "done", found.summary.notes
    assert found.summary.duration == pytest.approx(6.0, abs=0.1)


def test_sound_alone_in_avi_is_not_as_long_as_its_bit_rate_says(tmp_path: Path) -> None:
    path = tmp_path / "sound.avi"
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:r=44100:d=20", "-c:a", "pcm_s16le", path)
    found = extract_features(path, toy())
    assert (found.summary.status, found.summary.duration) == ("done", pytest.approx(20.0, abs=0.05))


ONCE_SHORT = (
    # Frames that bear no timestamp follow the last one that does.
    *("mute.mpg", "sound.ts", "sound.vob", "piped mute flv"),
    # The clock of an FLV file begins with its first picture, its length with the first packet.
    *("mute.flv", "late_sound.flv"),
    # Lengths that libavformat guesses, and headers that were never completed.
    *("sound0.amr", "piped wma", "piped avi", "piped mute avi", "piped mute ivf"),
    # A single picture is over at once, and does not last as long as the file.
    *("one picture in mkv", "one picture in ts", "one picture in mpg"),
)


@pytest.mark.parametrize("name", ONCE_SHORT)
def test_a_whole_file_is_as_long_as_it_is(tmp_path: Path, name: str) -> None:
    truth = ODDITIES[name](tmp_path)
    found = extract_features(truth.path, toy())
    summary = found.summary
    assert summary.status == "done", summary.notes
    assert not [note for note in summary.notes if "promises" in note]
    ends = [span[1] for span in (truth.picture, truth.sound) if span is not None]
    assert max(ends) - 0.005 <= summary.duration <= max(ends) + 0.07
    for modality, span in (("vision", truth.picture), ("audio", truth.sound)):
        if span is not None and span[1] > 1:
            assert found[f"{modality}_mask"][-1]


@pytest.mark.parametrize("seconds", [3.0, 5.8])
def test_pcm_in_avi_has_the_length_of_its_own_header(tmp_path: Path, seconds: float) -> None:
    """libavformat tells of it the length of the picture."""
    path = tmp_path / "clip.avi"
    picture = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=5", "-c:v", "mpeg4")
    sound = ("-f", "lavfi", "-i", f"sine=440:r=44100:d={seconds}", "-c:a", "pcm_s16le")
    run_ffmpeg(*picture[:4], *sound[:4], *picture[4:], *sound[4:], path)
    info = probe(path)
    assert info.audio is not None
    assert info.audio.duration == pytest.approx(seconds, abs=0.01)
    summary = extract_features(path, toy()).summary
    assert (summary.status, summary.notes) == ("done", ())
    assert summary.duration == pytest.approx(max(5.0, seconds), abs=0.01)


def packet(index: int, second: float | None, size: int = 10) -> SimpleNamespace:
    stamp = None if second is None else round(second * 1000)
    return SimpleNamespace(
        stream_index=index, pts=stamp, dts=None, size=size, time_base=Fraction(1, 1000)
    )


def opened(*packets: SimpleNamespace) -> SimpleNamespace:
    """A container with two streams and these packets."""
    return SimpleNamespace(streams=[0, 1], demux=lambda *_: iter(packets))


@pytest.mark.parametrize("wrong", [7.0, 500.0])
def test_one_damaged_timestamp_at_the_beginning_moves_no_stream(wrong: float) -> None:
    sound = [packet(1, second) for second in (wrong, 20.02, 20.04, 20.06, 20.08, 20.1)]
    pictures = [packet(0, 20 + number / 25) for number in range(8)]
    found = first_stamps(opened(*sound, *pictures), [0, 1], within=10_000)
    assert [len(stamps) for stamps in found.values()] == [5, 5]
    assert earlier_zero(20.0, found) == 20.0
    stream = SimpleNamespace(start_time=20_000, time_base=Fraction(1, 1000))
    for stamps in found.values():
        assert believed_start(stream, stamps, end=40.0) == 20_000


def test_a_stream_is_looked_for_within_bounds() -> None:
    packets = [packet(0, number / 25, size=100) for number in range(100)]
    container = opened(*packets, packet(1, 4.0))
    assert first_stamps(container, [0, 1], within=5_000)[1] == []
    container = opened(*packets, packet(1, 4.0))
    assert first_stamps(container, [0, 1], within=50_000)[1] == [4.0]


@pytest.mark.parametrize(
    ("declared", "stamps", "expected"),
    [
        (0, [], 0),
        (0, [0.023, 0.046, 0.07], 0),  # priming
        (0, [0.0, 60.0, 120.0, 180.0, 240.0], 0),  # slides
        (0, [9.0, 9.02, 9.04], 9_000),
        (4_000, [0.04, 0.08, 0.12], 40),  # only the later stream had been seen
        (0, [500.0], 0),  # behind the end of the file
        (None, [9.0], 9_000),
        (None, [], None),
    ],
)
def test_first_packets_overrule_a_start_that_they_contradict(
    declared: int | None, stamps: list[float], expected: int | None
) -> None:
    stream = SimpleNamespace(start_time=declared, time_base=Fraction(1, 1000))
    assert believed_start(stream, stamps, end=300.0) == expected


def test_a_file_begins_with_the_earlier_of_its_streams() -> None:
    assert earlier_zero(4.0, {0: [0.04, 0.08, 0.12], 1: [4.0, 4.02]}) == 0.04
    assert earlier_zero(4.0, {0: [], 1: [3.98, 4.0]}) == 4.0
