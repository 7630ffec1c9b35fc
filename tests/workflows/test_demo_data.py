"""The demo's films: what they hold, and that the files hold it at the annotated seconds."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from extractors.media.ffmpeg import ffmpeg_binary
from extractors.media.probe import probe
from workflows.demo.data import DemoSize, encode_film, make_demo_data, write_films
from workflows.demo.scenes import PICTURE_SIZE, render_frames
from workflows.demo.script import LABELS, PICTURE_RATE, Deck, Film, write_film
from workflows.demo.sounds import SOUND_RATE, render_sound

SUBSETS = ("train", "validation", "test")


def stretches(film: Film, label: str) -> tuple[int, int, int]:
    """How often a class is an event, is seen without being heard at all, and the reverse."""
    seen, heard = film.intervals(label, "vision"), film.intervals(label, "audio")

    def alone(
        spans: tuple[tuple[float, float], ...], others: tuple[tuple[float, float], ...]
    ) -> int:
        return sum(all(e <= c or d <= s for c, d in others) for s, e in spans)

    events = sum(name == label for *_, name in film.events())
    return events, alone(seen, heard), alone(heard, seen)


@pytest.fixture(scope="module")
def film() -> Film:
    """A short film with events, decoys and silence."""
    rng = np.random.default_rng(5)
    return write_film("short", subset="test", duration=8.0, deck=Deck(rng), rng=rng)


@pytest.fixture(scope="module")
def encoded(film: Film, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short film as a file."""
    target = tmp_path_factory.mktemp("film") / "short.mp4"
    encode_film(film, target)
    return target


def decode(path: Path, *arguments: str) -> bytes:
    command = [ffmpeg_binary(), "-v", "error", "-i", str(path), *arguments, "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.parametrize("seed", range(4))
def test_an_event_is_exactly_where_a_class_is_seen_and_heard(seed: int) -> None:
    clock = np.arange(0, 20, 0.01) + 0.005
    for film in write_films(seed, DemoSize(train=2, validation=1, test=1, long_seconds=0)):
        for label in LABELS:
            on = {
                modality: np.any(
                    [(clock >= s) & (clock < e) for s, e in spans] or [clock < 0], axis=0
                )
                for modality in ("vision", "audio")
                for spans in [film.intervals(label, modality)]  # type: ignore[arg-type]
            }
            marked = np.zeros(clock.size, bool)
            for start, end, name in film.events():
                if name == label:
                    marked |= (clock >= start) & (clock < end)
            np.testing.assert_array_equal(marked, on["vision"] & on["audio"])


@pytest.mark.parametrize("seed", range(6))
def test_every_class_is_only_seen_and_only_heard_as_often_as_it_is_an_event(seed: int) -> None:
    films = write_films(seed, DemoSize())
    for subset, label in itertools.product(SUBSETS, LABELS):
        counts = [stretches(film, label) for film in films if film.subset == subset]
        events, seen, heard = np.sum(counts, axis=0)
        assert events >= 2
        assert min(seen, heard) >= 0.75 * events - 1


def test_a_class_is_often_seen_while_another_is_heard() -> None:
    films = write_films(0, DemoSize())
    decoys = [
        (seen.label, heard.label)
        for film in films
        for seen, heard in itertools.product(film.parts, film.parts)
        if (seen.modality, heard.modality) == ("vision", "audio")
        and seen.label != heard.label
        and seen.clock == heard.clock
    ]
    assert {seen for seen, _ in decoys} == {heard for _, heard in decoys} == set(LABELS)
    assert len(decoys) >= 20


def test_many_events_begin_or_end_with_one_modality_only() -> None:
    films = write_films(0, DemoSize())
    borders = {p.start for f in films for p in f.parts} | {p.end for f in films for p in f.parts}
    events = [event for film in films for event in film.events()]
    assert all(start in borders and end in borders for start, end, _ in events)
    staggered = [
        film.events()
        for film in films
        for label in LABELS
        for seen, heard in itertools.product(
            film.intervals(label, "vision"), film.intervals(label, "audio")
        )
        if abs(seen[0] - heard[0]) > 0.5 and seen[0] < heard[1] and heard[0] < seen[1]
    ]
    assert len(staggered) >= len(events) // 3


def test_events_overlap_and_do_not_follow_the_grid() -> None:
    films = write_films(0, DemoSize())
    overlaps = sum(
        a[0] < b[1] and b[0] < a[1] for f in films for a, b in itertools.combinations(f.events(), 2)
    )
    assert overlaps >= 10
    starts = np.array([start for film in films for start, *_ in film.events()])
    assert np.std(np.mod(starts, 0.25)) > 0.05


def test_parts_of_one_class_keep_their_distance_and_lie_inside_the_film() -> None:
    for film in write_films(3, DemoSize()):
        for part in film.parts:
            assert 0 <= part.start < part.end <= film.duration
        for label, modality in itertools.product(LABELS, ("vision", "audio")):
            spans = film.intervals(label, modality)  # type: ignore[arg-type]
            assert all(b[0] - a[1] > 0.5 for a, b in itertools.pairwise(spans))


def test_the_long_film_has_rests_without_picture_or_sound() -> None:
    long = next(film for film in write_films(0, DemoSize()) if film.name == "long")
    for minute in (60, 120, 180):
        assert not [p for p in long.parts if p.start < minute and p.end > minute - 5.9]


def test_a_seed_decides_every_film_and_another_seed_changes_them() -> None:
    size = DemoSize(train=2, validation=1, test=1, long_seconds=30)
    assert write_films(7, size) == write_films(7, size)
    assert write_films(7, size) != write_films(8, size)


def test_individuals_of_a_class_differ_in_colour_size_and_pitch() -> None:
    styles = [p.style for f in write_films(0, DemoSize()) for p in f.parts if p.label == "bell"]
    for values in ([s.hue for s in styles], [s.size for s in styles], [s.pitch for s in styles]):
        assert len(set(values)) > 30


@pytest.mark.parametrize("label", LABELS)
def test_a_sound_begins_and_ends_at_its_annotated_second(label: str) -> None:
    films = write_films(1, DemoSize(train=16, validation=0, test=0, long_seconds=0))
    checked = 0
    for film in films:
        track = np.abs(render_sound(film))
        heard = [p for p in film.parts if p.modality == "audio"]
        for part in heard:
            around = [p for p in heard if p is not part and p.start < part.end + 0.1]
            if part.label != label or any(p.end > part.start - 0.1 for p in around):
                continue
            first = round(part.start * SOUND_RATE)
            before, after = track[first - 2000 : first], track[first : first + 2000]
            assert before.max(initial=0) < 0.03 < 0.08 < after.max()
            checked += 1
    assert checked


def test_the_file_has_both_streams_and_the_exact_duration(film: Film, encoded: Path) -> None:
    info = probe(encoded)
    assert info.duration == pytest.approx(film.duration, abs=1e-3)
    assert info.video is not None
    assert info.audio is not None
    assert (info.video.codec, info.audio.codec) == ("h264", "aac")
    assert (info.video.start, info.audio.start) == (0, 0)


def test_the_pictures_of_the_file_show_each_thing_in_its_frames_and_no_other(
    film: Film, encoded: Path
) -> None:
    raw = decode(encoded, "-f", "rawvideo", "-pix_fmt", "rgb24")
    shown = np.frombuffer(raw, np.uint8).reshape(-1, PICTURE_SIZE, PICTURE_SIZE, 3)
    drawn = np.stack(list(render_frames(film)))
    assert shown.shape == drawn.shape
    error = np.abs(shown.astype(np.float32) - drawn).mean(axis=(1, 2, 3))
    assert error.max() < 5  # a frame too early or too late differs by more where things appear
    changes = {
        round(t * PICTURE_RATE)
        for p in film.parts
        if p.modality == "vision"
        for t in (p.start, p.end)
    }
    for number in changes - {0, len(drawn)}:
        shift = np.abs(shown[number].astype(np.float32) - drawn[number - 1]).mean()
        assert shift > 1.5 * error[number]


def test_the_sound_of_the_file_is_in_time_with_what_was_made(film: Film, encoded: Path) -> None:
    raw = decode(encoded, "-f", "f32le", "-ac", "1", "-ar", str(SOUND_RATE))
    played, made = np.frombuffer(raw, np.float32), render_sound(film)
    assert played.size == made.size
    spectra = np.fft.rfft(played, 2 * made.size) * np.conj(np.fft.rfft(made, 2 * made.size))
    assert int(np.argmax(np.fft.irfft(spectra))) == 0
    assert np.corrcoef(played, made)[0, 1] > 0.97


def test_making_the_data_set_again_keeps_its_films_and_gives_the_same_bytes(tmp_path: Path) -> None:
    size = DemoSize(train=1, validation=0, test=0, long_seconds=0)
    first = make_demo_data(tmp_path / "a", seed=3, size=size)
    film = first.videos / "train_00.mp4"
    stamp = film.stat().st_mtime_ns
    make_demo_data(tmp_path / "a", seed=3, size=size)
    assert film.stat().st_mtime_ns == stamp
    second = make_demo_data(tmp_path / "b", seed=3, size=size)
    digests = {
        hashlib.sha256((data.videos / "train_00.mp4").read_bytes()).hexdigest()
        for data in (first, second)
    }
    assert len(digests) == 1
    written = json.loads(first.annotations.read_text())["database"]
    assert set(written) == {path.name for path in first.videos.glob("*.mp4")}


def test_another_seed_replaces_the_films_of_the_one_before(tmp_path: Path) -> None:
    make_demo_data(tmp_path, seed=0, size=DemoSize(train=1, validation=1, test=0, long_seconds=0))
    data = make_demo_data(
        tmp_path, seed=1, size=DemoSize(train=1, validation=0, test=0, long_seconds=0)
    )
    assert [path.name for path in data.videos.glob("*.mp4")] == ["train_00.mp4"]
