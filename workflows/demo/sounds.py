"""The demo's sounds, made of sines and noise: one timbre per class, another pitch each time.

Every function returns mono float32 of the length asked for, at most 1 in size, and starts with its
first stroke, so that the annotated second is the second at which something is heard.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from workflows.demo.script import Film, Part, Style

SOUND_RATE = 44_100
RAMP_S = 0.008  # fades at the cut edges; shorter ones click
LEVEL = 0.3  # of each sound; two at a time plus the background stay below 1

RUMBLE = 64  # samples that the background noise is summed over: little is left above 1 kHz

Waveform = NDArray[np.float32]


def thumps(times: NDArray[np.float64], style: Style) -> NDArray[np.float64]:
    """A ball on the ground: a short drop of pitch and a click at each stroke."""
    since = _since_stroke(times, style.rate)
    fall = 170.0 * style.pitch * (since + 0.03 * (1 - np.exp(-since / 0.03)))
    rng = np.random.default_rng(style.seed)
    click = rng.standard_normal(times.size) * np.exp(-since / 0.006)
    return np.sin(2 * np.pi * fall) * np.exp(-since / 0.14) + 0.35 * click


def whirr(times: NDArray[np.float64], style: Style) -> NDArray[np.float64]:
    """A fan: a buzz of many harmonics and air noise, swelling with each blade."""
    rng = np.random.default_rng(style.seed)
    phase = 2 * np.pi * 95.0 * style.pitch * times
    buzz = sum(np.sin(k * phase) / k for k in range(1, 9))
    air = rng.standard_normal(times.size)
    swell = 0.65 + 0.35 * np.cos(2 * np.pi * 4 * style.rate * times)
    return 0.35 * swell * (buzz + 0.45 * air)


def wail(times: NDArray[np.float64], style: Style) -> NDArray[np.float64]:
    """A siren: a tone with two overtones that sweeps up and down."""
    centre, sweep, rate = 900.0 * style.pitch, 320.0 * style.pitch, style.rate / 2
    phase = 2 * np.pi * centre * times - sweep / rate * np.cos(2 * np.pi * rate * times)
    return 0.6 * np.sin(phase) + 0.25 * np.sin(2 * phase) + 0.1 * np.sin(3 * phase)


def chimes(times: NDArray[np.float64], style: Style) -> NDArray[np.float64]:
    """A bell: inharmonic partials, the higher ones gone sooner, struck at each swing."""
    since = _since_stroke(times, style.rate)
    sound = np.zeros_like(times)
    for ratio, strength in (
        (0.5, 0.5),
        (1.0, 1.0),
        (1.19, 0.7),
        (1.56, 0.5),
        (2.0, 0.6),
        (2.74, 0.4),
    ):
        tone = np.sin(2 * np.pi * 640.0 * style.pitch * ratio * since)
        sound += strength * tone * np.exp(-since * (2.0 + 2.0 * ratio))
    return 0.4 * sound


VOICES: dict[str, Callable[[NDArray[np.float64], Style], NDArray[np.float64]]] = {
    "ball": thumps,
    "fan": whirr,
    "siren": wail,
    "bell": chimes,
}


def render_sound(film: Film) -> Waveform:
    """The whole sound track of a film: its audible parts over a faint or absent background.

    Returns:
        (round(duration * SOUND_RATE),) float32 in [-1, 1].
    """
    total = round(film.duration * SOUND_RATE)
    track = _background(total, np.random.default_rng(film.seed))
    for part in film.parts:
        if part.modality == "audio":
            first, last = round(part.start * SOUND_RATE), round(part.end * SOUND_RATE)
            track[first:last] += _voice(part, last - first)
    return np.clip(track, -1.0, 1.0).astype(np.float32)


def _voice(part: Part, samples: int) -> NDArray[np.float64]:
    times = np.arange(samples) / SOUND_RATE + (part.start - part.clock)
    sound = VOICES[part.label](times, part.style)
    ramp = min(round(RAMP_S * SOUND_RATE), samples // 2)
    fade = np.sin(0.5 * np.pi * (np.arange(ramp) + 0.5) / ramp) ** 2
    sound[:ramp] *= fade
    sound[samples - ramp :] *= fade[::-1]
    return LEVEL * np.clip(sound, -1.0, 1.0)


def _since_stroke(times: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Seconds since the last stroke; strokes fall on multiples of 1/rate."""
    return np.mod(times, 1.0 / rate)


def _background(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Digital silence in every third film, faint rumbling noise in the others."""
    level = float(rng.choice([0.0, 0.001, 0.003]))
    walk = np.cumsum(rng.standard_normal(samples + RUMBLE))
    noise = walk[RUMBLE:] - walk[:-RUMBLE]
    return level * noise / max(float(noise.std()), 1e-9)
