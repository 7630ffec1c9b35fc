"""From a media file to feature rows: decode, window, encode, in bounded memory.

Both modalities are read once and advance together. Decoding runs ahead in the readers' own threads
and processes while the nets compute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from extractors.coverage import (
    Heard,
    Hole,
    SpanCheck,
    check_span,
    hole_note,
    holes,
    is_steady,
    step_mask,
)
from extractors.features import ARRAY_TYPES, Features, Rows, Summary, concatenate_rows
from extractors.interruption import check_interruption
from extractors.lanes import ClipLane, FrameLane, Lane, SoundLane
from extractors.media.audio import open_audio
from extractors.media.blocks import OpenPicture, OpenSound
from extractors.media.info import AudioStream, MediaInfo, VideoStream
from extractors.media.jumps import read_clock
from extractors.media.probe import probe
from extractors.media.video import ReaderChoice, open_video
from extractors.spec import MODALITIES, Backbone, Modality
from pipeline.core.errors import MediaError

BATCH_SIZE = 32  # frames or sound windows that a net is given at once
BATCH_WINDOWS = 8  # of pictures that a net is given at once: they fill an accelerator's batch
CHUNK_STEPS = 32  # steps that are handed on at once: 8 s on the default grid
OVERRUN_S = 1.0  # past the promised duration: more is a wrong promise, less a last frame or packet

NOUNS: dict[Modality, str] = {"vision": "picture", "audio": "audio"}


@dataclass(frozen=True, slots=True)
class Sources:
    """What opens the streams of a file in place of the decoders: benchmarks hand in made-up ones.

    Attributes:
        video: Called as `extractors.media.video.open_video`.
        audio: Called as `extractors.media.audio.open_audio`.
    """

    video: Callable[..., OpenPicture]
    audio: Callable[..., OpenSound]


class FeatureStream:
    """Feature rows of one file, chunk by chunk in the order of the steps.

    Iterate it once; then `summary` says how long the file turned out to be and what was missing.
    A missing stream, or one that cannot be decoded while the other can, gives rows of zeros whose
    mask is False, and a note; so do holes (`extractors.coverage`).

    The number of steps is `WindowGrid.steps` of a duration: the promised one where every stream was
    decoded to at least 0.99 of its promise; the decoded end where one ends earlier, where the file
    goes on for a second or more past its promise, and where it promises nothing.

    Args:
        info: What `probe` said of the file.
        backbone: The loaded nets.
        reader: Video reader: ``auto``, ``decord`` or ``ffmpeg``.
        batch_size: Frames or sound windows that a net is given at once; picture nets that see
            whole windows get as many windows as hold that many frames, one at least. None for 32,
            and for 8 windows of frames.
        threads: Decoder threads; 0 lets the decoder choose.
        sources: What opens the streams; None takes the decoders.

    Raises:
        MediaError: While iterating: neither modality could be decoded at all, or a net answered
            with a value that is not finite.
        EnvironmentFault: There is no ffmpeg.
        DecoderEndedError: While iterating: somebody else ended ffmpeg.
        OutOfMemoryFault: While iterating: a net found no room.
        KeyboardInterrupt: While iterating in a thread: it was asked to leave
            (`extractors.interruption`).
    """

    def __init__(
        self,
        info: MediaInfo,
        backbone: Backbone,
        *,
        reader: str = "auto",
        batch_size: int | None = None,
        threads: int = 0,
        sources: Sources | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is below 1")
        self._info = info
        self._backbone = backbone
        self._grid = backbone.spec.grid
        self._reader = cast(ReaderChoice, reader)  # open_video refuses others
        self._batch = batch_size or BATCH_SIZE
        self._windows = (
            BATCH_WINDOWS if batch_size is None else max(1, batch_size // self._grid.window)
        )
        self._threads = threads
        self._sources = sources
        self._summary: Summary | None = None
        self._started = False

    @property
    def summary(self) -> Summary:
        """What is known once the last row has been taken.

        Raises:
            RuntimeError: The stream has not been iterated to its end.
        """
        if self._summary is None:
            raise RuntimeError("a FeatureStream has its summary only after its last row")
        return self._summary

    def __iter__(self) -> Iterator[Rows]:
        """Chunks of at most 32 steps, consecutive from step 0."""
        if self._started:
            raise RuntimeError("a FeatureStream can be iterated only once")
        self._started = True
        with ExitStack() as resources:
            lanes = self._open_lanes(resources)
            position = 0
            while any(not lane.over for lane in lanes.values()):
                while self._answerable(lanes) < position + CHUNK_STEPS:
                    waiting = [lane for lane in lanes.values() if not lane.over]
                    if not waiting:
                        break
                    check_interruption()
                    min(waiting, key=lambda lane: lane.reach).pull()
                else:
                    yield self._rows(lanes, position, CHUNK_STEPS, duration=np.inf)
                    position += CHUNK_STEPS
            check_interruption()  # decoders end then, too: what they gave is no file's end
            summary = self._conclude(lanes)
            while position < summary.steps:
                check_interruption()
                count = min(CHUNK_STEPS, summary.steps - position)
                yield self._rows(lanes, position, count, duration=summary.duration)
                position += count
            self._summary = summary

    def _open_lanes(self, resources: ExitStack) -> dict[Modality, Lane]:
        lanes: dict[Modality, Lane] = {}
        info, backbone, grid = self._info, self._backbone, self._grid
        sources = self._sources or Sources(open_video, open_audio)
        if info.video is not None:
            size = backbone.vision.frame_size(info.video.width, info.video.height)
            pictures = sources.video(
                info, fps=grid.fps, size=size, reader=self._reader, threads=self._threads
            )
            whole = backbone.vision.spec.unit == "window"
            lanes["vision"] = (ClipLane if whole else FrameLane)(
                pictures,
                backbone.vision,
                grid,
                start=info.video.start,
                batch_size=self._windows if whole else self._batch,
                strict=self._reader == "decord",  # asked for by name: nothing else will do
                resources=resources,
            )
        if info.audio is not None:
            sound = sources.audio(info, sample_rate=grid.sample_rate, threads=self._threads)
            lanes["audio"] = SoundLane(
                sound,
                backbone.audio,
                grid,
                start=info.audio.start,
                batch_size=self._batch,
                resources=resources,
            )
        return lanes

    def _answerable(self, lanes: dict[Modality, Lane]) -> int:
        """Number of steps that exist for certain and that all lanes can answer.

        A window that a running lane has passed lies before the decoded end; one inside the
        promised duration stays inside whichever of the two decides.
        """
        reach = min((lane.reach for lane in lanes.values() if not lane.over), default=0.0)
        if self._info.duration is not None and not self._overruns(lanes):
            reach = min(reach, self._info.duration)
        return self._grid.whole_steps(reach)

    def _overruns(self, lanes: dict[Modality, Lane]) -> bool:
        """Whether a stream goes on so far past the promised duration that this must be wrong."""
        limit = np.inf if self._info.duration is None else self._info.duration + OVERRUN_S
        return any(lane.reach > limit for lane in lanes.values())

    def _rows(
        self, lanes: dict[Modality, Lane], first: int, count: int, *, duration: float
    ) -> Rows:
        rows: Rows = {}
        for modality in MODALITIES:
            spec = getattr(self._backbone.spec, modality)
            mask = np.zeros(count, np.bool_)
            embeddings = np.zeros((count, spec.dim), np.float32)
            scores: NDArray[Any] | None = np.zeros((count, spec.classes), np.float32)
            if modality in lanes:
                lane = lanes[modality]
                heard, lost = self._heard(lanes, modality), self._holes(lanes, modality)
                mask = step_mask(self._grid, first, count, heard, lost, duration)
                answer = lane.encode(first, mask)
                embeddings, scores = answer.embeddings, answer.scores
                self._check(modality, first, embeddings, scores)
            rows[modality] = embeddings
            rows[f"{modality}_mask"] = mask
            if spec.classes and scores is not None:
                rows[f"{modality}_scores"] = scores
        return {
            name: np.ascontiguousarray(rows[name], dtype=ARRAY_TYPES[name])
            for name in ARRAY_TYPES
            if name in rows
        }

    def _heard(self, lanes: dict[Modality, Lane], modality: Modality) -> Heard:
        lane = lanes[modality]
        steady = is_steady(self._stream(modality))
        return Heard(lane.start, lane.reach, lane.over, lane.gaps, steady)

    def _holes(self, lanes: dict[Modality, Lane], modality: Modality) -> tuple[Hole, ...]:
        other = next((name for name in lanes if name != modality), None)
        return holes(self._heard(lanes, modality), other and self._heard(lanes, other))

    def _check(self, modality: Modality, first: int, *arrays: NDArray[Any] | None) -> None:
        for array in arrays:
            if array is None or np.isfinite(array).all():
                continue
            step = first + int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            second = self._grid.span(step)[0]
            raise MediaError(
                self._info.path,
                f"the {modality} features of step {step} (at {second:.2f} s) are not finite",
                hint="try full precision or another device; report it if it stays",
            )

    def _conclude(self, lanes: dict[Modality, Lane]) -> Summary:
        """Duration, steps, coverage and notes, once everything has been decoded."""
        ends = {modality: _decoded_end(lane) for modality, lane in lanes.items()}
        if not any(ends.values()):
            raise self._nothing_decoded(lanes)
        checks = {
            modality: check_span(
                self._stream(modality),
                ends[modality],
                float(self._grid.fps),
                self._holes(lanes, modality),
            )
            for modality in lanes
        }
        doubts = self._doubts()
        # Where nothing is promised, only a decoder that came to an end by itself says how long.
        gave_up = any(
            lane.failure is not None and self._stream(modality).end is None
            for modality, lane in lanes.items()
        )
        complete = not (doubts or gave_up) and all(check.complete for check in checks.values())
        duration = max(ends.values())
        if self._info.duration is not None and not self._overruns(lanes):
            duration = self._info.duration if complete else min(duration, self._info.duration)
        return Summary(
            duration=duration,
            steps=self._grid.steps(duration),
            coverage={modality: check.coverage for modality, check in checks.items()},
            readers={modality: lane.reader for modality, lane in lanes.items() if lane.reader},
            status="done" if complete else "partial",
            notes=self._notes(lanes, ends, checks) + doubts + self._remarks(),
        )

    def _doubts(self) -> tuple[str, ...]:
        """What is wrong with the file as a whole, whatever was decoded of it."""
        broken_off = self._info.broken_off
        told = f"the file was broken off: {broken_off}" if broken_off else ""
        return tuple(filter(None, (read_clock(self._info).doubt, told)))

    def _remarks(self) -> tuple[str, ...]:
        """What a user should know of the file, though it need not be wrong."""
        open_end = self._info.open_end
        return (f"the file seems to end within {open_end}",) if open_end else ()

    def _stream(self, modality: Modality) -> VideoStream | AudioStream:
        stream = self._info.video if modality == "vision" else self._info.audio
        assert stream is not None
        return stream

    def _nothing_decoded(self, lanes: dict[Modality, Lane]) -> MediaError:
        for lane in lanes.values():
            if lane.failure is not None:
                return lane.failure
        return MediaError(
            self._info.path,
            f"nothing of its {' and '.join(NOUNS[name] for name in lanes)} can be decoded",
            hint="play it in a media player; if that fails too, copy or download it again",
        )

    def _notes(
        self,
        lanes: dict[Modality, Lane],
        ends: dict[Modality, float],
        checks: dict[Modality, SpanCheck],
    ) -> tuple[str, ...]:
        notes = []
        for modality in MODALITIES:
            noun = NOUNS[modality]
            if modality not in lanes:
                notes.append(f"no {noun} stream")
                continue
            failure = lanes[modality].failure
            promised = self._stream(modality).end
            if lost := hole_note(noun, checks[modality].holes):
                notes.append(lost)
            if ends[modality] == 0:
                reason = f": {failure.reason}" if failure else ""
                notes.append(f"the {noun} cannot be decoded{reason}")
            elif checks[modality].short and promised is not None:
                reason = f": {failure.reason}" if failure else ""
                notes.append(
                    f"{noun} ends at {ends[modality]:.1f} s, "
                    f"the container promises {promised:.1f} s{reason}"
                )
            elif promised is not None and ends[modality] > promised + OVERRUN_S:
                notes.append(
                    f"{noun} goes on to {ends[modality]:.1f} s, "
                    f"the container promises {promised:.1f} s"
                )
            elif failure is not None:
                notes.append(f"{noun}: {failure.reason}")
            elif promised is None:
                notes.append(f"the file does not say how long its {noun} is")
        return tuple(notes)


def extract_features(
    path: str | os.PathLike[str],
    backbone: Backbone,
    *,
    reader: str = "auto",
    batch_size: int | None = None,
) -> Features:
    """All features of one file, in memory.

    Args:
        path: The file; its name becomes the id.
        backbone: The loaded nets.
        reader: Video reader: ``auto``, ``decord`` or ``ffmpeg``.
        batch_size: See `FeatureStream`.

    Raises:
        MediaError: The file cannot be read.
        EnvironmentFault: There is no ffmpeg.
    """
    stream = FeatureStream(probe(path), backbone, reader=reader, batch_size=batch_size)
    arrays = concatenate_rows(stream)
    return Features(
        Path(path).name, backbone.spec.grid, backbone.spec.digest, arrays, stream.summary
    )


def _decoded_end(lane: Lane) -> float:
    """Second up to which a finished lane has data; 0 where nothing came."""
    return lane.reach if lane.reach > lane.start else 0.0
