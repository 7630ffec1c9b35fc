"""Pictures that are made ready for a net ahead of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.ahead import PreparedAhead
from extractors.interruption import check_interruption, interrupted_by
from extractors.media.blocks import FrameBlock
from extractors.media.gaps import Gap
from extractors.media.probe import probe
from extractors.spec import Backbone, BackboneSpec, Encoded
from extractors.stream import FeatureStream
from extractors.windows import WindowGrid
from fixtures.backbones import Loudness, MeanColour
from fixtures.media import Zoo
from pipeline.core.errors import MediaError
from workflows.bench.noise import noise_sources

Frames = NDArray[np.uint8]
PATIENCE_S = 30.0
LONG_S = 40.0
GRID = WindowGrid()


class Reader:
    """Blocks of two frames of 2x1 pixels, all of one brightness, the block's number.

    Args:
        blocks: How many.
        fault: What is raised behind them.
    """

    reader, fallback_reason, end = "made up", "", 0.0
    gaps: tuple[Gap, ...] = ()

    def __init__(self, blocks: int, fault: Exception | None = None) -> None:
        self.blocks = blocks
        self.fault = fault
        self.given = 0
        self.left = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def __iter__(self) -> Iterator[FrameBlock]:
        try:
            for number in range(self.blocks):
                check_interruption()
                self.given += 1
                yield FrameBlock(2 * number, np.full((2, 1, 2, 3), number, np.uint8))
            if self.fault is not None:
                raise self.fault
        finally:
            self.left.set()


def brighter(frames: Frames) -> Frames:
    return frames + np.uint8(100)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def test_blocks_come_prepared_and_in_order() -> None:
    with PreparedAhead(Reader(50), brighter, most_bytes=100) as ahead:
        blocks = list(ahead)
    assert [block.first for block in blocks] == list(range(0, 100, 2))
    assert [set(block.frames.ravel().tolist()) for block in blocks] == [
        {100 + number} for number in range(50)
    ]


def test_it_runs_ahead_of_who_takes_as_far_as_memory_allows() -> None:
    prepared: list[int] = []

    def prepare(frames: Frames) -> Frames:
        prepared.append(len(frames))
        return frames

    reader = Reader(50)
    with PreparedAhead(reader, prepare, most_bytes=5 * 12) as ahead:  # blocks of 12 bytes
        # Five wait; a sixth is ready and waits for its place.
        wait_until(lambda: len(prepared) == 6)
        time.sleep(0.1)
        assert len(prepared) == 6
        next(iter(ahead))
        wait_until(lambda: len(prepared) == 7)


def test_a_block_above_the_limit_goes_alone() -> None:
    with PreparedAhead(Reader(3), brighter, most_bytes=1) as ahead:
        assert len(list(ahead)) == 3


def test_what_the_reader_raises_comes_behind_the_blocks_before_it() -> None:
    reader = Reader(3, MediaError("a.mp4", "is broken"))
    firsts = []
    with PreparedAhead(reader, brighter) as ahead, pytest.raises(MediaError, match="is broken"):
        firsts.extend(block.first for block in ahead)
    assert firsts == [0, 2, 4]


def test_what_preparing_raises_reaches_who_takes() -> None:
    def prepare(frames: Frames) -> Frames:
        raise ValueError("of that size")

    with (
        PreparedAhead(Reader(3), prepare) as ahead,
        pytest.raises(ValueError, match="of that size"),
    ):
        next(iter(ahead))


@pytest.mark.parametrize("most_bytes", [1, 10_000])
def test_leaving_early_ends_the_thread_and_the_reading(most_bytes: int) -> None:
    reader = Reader(10_000)
    with PreparedAhead(reader, brighter, most_bytes=most_bytes) as ahead:
        next(iter(ahead))
    assert reader.left.is_set()
    assert reader.given < 10_000
    assert not ahead._thread.is_alive()


def test_who_waits_for_a_block_leaves_when_asked_to() -> None:
    hold, stop = threading.Event(), threading.Event()
    caught: list[BaseException] = []

    def prepare(frames: Frames) -> Frames:
        assert hold.wait(PATIENCE_S)
        return frames

    def take(ahead: PreparedAhead) -> None:
        with interrupted_by(stop):
            try:
                next(iter(ahead))
            except KeyboardInterrupt as error:
                caught.append(error)

    with PreparedAhead(Reader(3), prepare) as ahead:
        thread = threading.Thread(target=take, args=(ahead,))
        thread.start()
        stop.set()
        thread.join(PATIENCE_S)
        hold.set()
    assert len(caught) == 1


class Waiting(MeanColour):
    """Answers its first windows when the pictures of later ones are ready."""

    def __init__(self) -> None:
        super().__init__("window")
        self.prepared = 0

    def prepare(self, frames: Frames) -> Frames:
        self.prepared += len(frames)
        return frames[:, ::8, ::8]

    def embed(self, frames: Frames) -> Encoded:
        wait_until(lambda: self.prepared >= (LONG_S - 1) * GRID.fps)
        return super().embed(frames)


def test_the_next_pictures_are_made_ready_while_the_net_is_at_work(zoo: Zoo) -> None:
    info = replace(probe(zoo["constant.mp4"].path), duration=LONG_S)
    vision, sound = Waiting(), Loudness()
    backbone = Backbone(BackboneSpec("waiting", GRID, vision.spec, sound.spec), vision, sound)
    rows = list(FeatureStream(info, backbone, sources=noise_sources(info)))
    assert sum(len(row["vision"]) for row in rows) == GRID.steps(LONG_S)
