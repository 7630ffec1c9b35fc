"""What a media file holds: the answer of `extractors.media.probe.probe`.

All seconds are those of the container clock: zero at the earliest stream start.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


@dataclass(frozen=True, slots=True)
class VideoStream:
    """The picture stream of a file.

    Attributes:
        index: Number of the stream in its container.
        start: Second of the container clock at which the first frame is shown.
        duration: Promised seconds from ``start`` on; None where the file does not say.
        rate: Frames per second, averaged over the stream.
        variable_rate: Frames do not all last equally long.
        codec: Name of the codec, such as ``h264``.
        width: Width on display, after rotation and pixel aspect.
        height: Height on display, after rotation.
        rotation: Degrees counter-clockwise by which a player turns the stored frames: 0, 90, 180
            or 270; it may mirror them, too.
        time_base: Seconds of one tick of the stream's timestamps.
        plain: The only picture stream of the file, with a first frame exactly where the stream
            says that it starts and nothing hidden before it, and turned by quarters at most.
    """

    index: int
    start: float
    duration: float | None
    rate: Fraction
    variable_rate: bool
    codec: str
    width: int
    height: int
    rotation: int = 0
    time_base: Fraction = Fraction(1, 90_000)
    plain: bool = True

    @property
    def end(self) -> float | None:
        """Second at which the file promises that the picture is over."""
        return None if self.duration is None else self.start + self.duration


@dataclass(frozen=True, slots=True)
class AudioStream:
    """The sound stream of a file.

    Attributes:
        index: Number of the stream in its container.
        start: Second of the container clock at which the sound starts.
        duration: Promised seconds from ``start`` on; None where the file does not say.
        sample_rate: Samples per second, as stored.
        channels: Number of channels, as stored.
        codec: Name of the codec, such as ``aac``.
    """

    index: int
    start: float
    duration: float | None
    sample_rate: int
    channels: int
    codec: str

    @property
    def end(self) -> float | None:
        """Second at which the file promises that the sound is over."""
        return None if self.duration is None else self.start + self.duration


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a media file holds.

    Attributes:
        path: The file.
        container: Name of the container format, as libavformat gives it.
        size_bytes: Size of the file.
        duration: Second of the container clock at which the longer stream is over, as promised;
            None where the file does not say: then the decoded end decides.
        clock_offset: The file's own timestamp, in seconds, that the container clock calls zero.
        video: The picture stream, None where there is none. Cover art is none.
        audio: The sound stream, None where there is none.
        discontinuous: The format allows timestamps to jump (MPEG-TS, MPEG-PS, Ogg).
        broken_off: What shows that the end of the file is missing though nothing promises a length
            (MPEG-TS, MPEG-PS, Ogg, fragmented MP4, live Matroska); "" where nothing does.
        open_end: What the file ends within, where that is no fault: a broadcast whose recording
            was stopped looks so, too; "" where nothing is known to go on.
    """

    path: Path
    container: str
    size_bytes: int
    duration: float | None
    clock_offset: float
    video: VideoStream | None
    audio: AudioStream | None
    discontinuous: bool = False
    broken_off: str = ""
    open_end: str = ""
