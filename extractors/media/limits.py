"""How much a single file may ask for before it is taken for a bomb.

A picture of 16000 x 16000 fits into less than a megabyte as PNG and into two gigabytes decoded.
"""

from __future__ import annotations

import os

from extractors.media.info import MediaInfo

MAX_PIXELS = 1 << 26  # twice 8K; a larger frame is refused before anything is decoded
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
SCAN_BYTES = 256 << 20  # a larger file without a duration is not read twice
BASE_BYTES = 1 << 30
THREAD_BYTES = 32 << 20  # ffmpeg starts some threads a core, each with its stack
FRAMES_HELD = 64  # by references, threads and queues together
PIXEL_BYTES = 8  # 16 bits in four planes


def decoder_memory(info: MediaInfo) -> int:
    """Bytes of data that an ffmpeg may hold which decodes one stream of a file.

    Room for 64 frames of the deepest format, so that it grows with the picture: no sound file
    comes near it, a header that lies about the size of its frames meets it.
    """
    base = BASE_BYTES + THREAD_BYTES * (os.cpu_count() or 1)
    pixels = info.video.width * info.video.height if info.video else 0
    return base + FRAMES_HELD * PIXEL_BYTES * pixels
