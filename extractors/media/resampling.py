"""The filter that brings sound to the rate of the nets.

It is resampy 0.2's ``kaiser_best``: a sinc rolled off at 0.9476 of the lower rate's half, of 64
periods of the lower rate to either side, under a Kaiser window of beta 14.77. The extractor behind
UnAV-100's features pinned that version in 2022, and the best known recipe for ONE-PEACE's sound
names this filter. On real sound ffmpeg's default lies about 1 % away from it, and so does what
resampy itself calls by the same name from 0.3 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Options of ffmpeg's filter "aresample", whose length is in periods of the cutoff: 2 x 64 x 0.9476.
KAISER_BEST: Mapping[str, str | int | float] = MappingProxyType(
    {
        "filter_type": "kaiser",
        "kaiser_beta": 14.769656459379492,
        "filter_size": 121,
        "cutoff": 0.9475937167399596,
    }
)

# For descriptions of nets: their digests must change when the filter does.
KAISER_BEST_WORDS = "resampled by a sinc of 2 x 64 periods under a Kaiser window (kaiser_best)"
