"""The demo's pictures: four moving things drawn with NumPy on a quiet, coloured background.

Shapes are signed distances (negative inside, pixels), so that edges are smooth at any size and
speed. Each figure is drawn into the square patch around its centre.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from workflows.demo.script import PICTURE_RATE, Film, Part, Style

PICTURE_SIZE = 160  # pixels, both ways

Field = NDArray[np.floating]
Layer = tuple[Field, tuple[float, float, float]]
"""Coverage in [0, 1] over the patch, and the colour that is laid on."""


def ball(x: Field, y: Field, radius: float, time: float, style: Style) -> Iterator[Layer]:
    """A striped ball that bounces; it touches the ground at multiples of 1/rate."""
    ground = 0.95 * radius
    height = 1.1 * radius * abs(np.sin(np.pi * style.rate * time))
    size = 0.62 * radius
    dark, main, light = _shades(style)
    yield 0.5 * _fill(_ellipse(x, y - ground, size * (1.1 - 0.3 * height / radius), 3.0)), dark
    dx, dy = x, y - (ground - size - height)
    body = _fill(np.hypot(dx, dy) - size)
    yield body, main
    spin = 2 * np.pi * 0.35 * style.rate * time
    along = dx * np.cos(spin) + dy * np.sin(spin)
    yield body * _fill(np.abs(along) - 0.2 * size), light
    yield 0.8 * _fill(np.hypot(dx + 0.35 * size, dy + 0.4 * size) - 0.16 * size), (1.0, 1.0, 1.0)


def fan(x: Field, y: Field, radius: float, time: float, style: Style) -> Iterator[Layer]:
    """Blades that turn behind a round guard."""
    dark, main, light = _shades(style)
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    blades = 3 + style.seed % 3
    turn = 2 * np.pi * 0.4 * style.rate * time
    wave = np.cos(blades * (angle - turn - 0.006 * distance * blades))
    yield _fill(np.abs(x) - 0.08 * radius) * _fill(radius - y), dark
    yield _fill(distance - radius), light
    blade = np.clip(4.0 * wave, 0, 1).astype(np.float32) * _fill(distance - 0.86 * radius)
    yield blade, main
    yield _fill(np.abs(distance - radius) - 1.6), dark
    yield _fill(np.abs(distance - 0.6 * radius) - 0.6), dark
    yield _fill(distance - 0.2 * radius), dark


def siren(x: Field, y: Field, radius: float, time: float, style: Style) -> Iterator[Layer]:
    """A warning light: a dome that flashes and a beam that sweeps round."""
    dark, main, _ = _shades(style)
    flash = 0.5 + 0.5 * np.cos(2 * np.pi * style.rate * time)
    glow = np.exp(-((np.hypot(x, y) / (0.65 * radius)) ** 2)).astype(np.float32)
    yield 0.75 * flash * glow, main
    sweep = np.cos(np.pi * style.rate * time)
    lean = np.abs(x + y * sweep * 1.5)  # the beam leaves the dome upwards and leans over
    beam = _fill(lean - 0.1 * radius - 0.25 * np.maximum(-y, 0)) * _fill(y)
    yield 0.7 * beam * _fill(np.hypot(x, y) - 1.2 * radius), (1.0, 1.0, 0.85)
    dome = _fill(
        np.maximum(_ellipse(x, y - 0.4 * radius, 0.55 * radius, 0.8 * radius), y - 0.4 * radius)
    )
    yield dome, main
    yield dome * flash * 0.7, (1.0, 1.0, 1.0)
    yield (
        _fill(np.maximum(np.abs(x) - 0.75 * radius, np.abs(y - 0.55 * radius) - 0.16 * radius)),
        dark,
    )


def bell(x: Field, y: Field, radius: float, time: float, style: Style) -> Iterator[Layer]:
    """A bell that swings from its top; its clapper strikes at multiples of 1/rate."""
    dark, main, light = _shades(style)
    lean = 0.6 * np.sin(np.pi * style.rate * time)
    across, down = _turned(x, y + 0.8 * radius, lean)
    width = radius * (0.22 + 0.18 * (down / radius) + 0.16 * np.clip(down / radius, 0, 2) ** 3)
    yield _fill(np.hypot(across, down - 1.62 * radius) - 0.18 * radius), dark
    shell = np.maximum(np.abs(across) - width, np.abs(down - 0.78 * radius) - 0.72 * radius)
    body = _fill(0.8 * shell)
    yield body, main
    yield body * _fill(np.abs(across + 0.4 * width) - 0.12 * width), light
    yield body * _fill(np.abs(down - 1.36 * radius) - 0.07 * radius), dark
    yield _fill(np.abs(np.hypot(across, down + 0.05 * radius) - 0.12 * radius) - 1.5), dark


FIGURES: dict[str, Callable[[Field, Field, float, float, Style], Iterator[Layer]]] = {
    "ball": ball,
    "fan": fan,
    "siren": siren,
    "bell": bell,
}


def render_frames(film: Film) -> Iterator[NDArray[np.uint8]]:
    """All pictures of a film in order.

    Yields:
        (PICTURE_SIZE, PICTURE_SIZE, 3) uint8 RGB; picture n is on screen from n / PICTURE_RATE.
    """
    background = _background(film.seed)
    seen = [part for part in film.parts if part.modality == "vision"]
    for number in range(round(film.duration * PICTURE_RATE)):
        time = number / PICTURE_RATE
        picture = background.copy()
        for part in seen:
            if part.start - 1e-6 <= time < part.end - 1e-6:
                _draw(picture, part, time - part.clock)
        yield np.clip(255.0 * picture + 0.5, 0, 255).astype(np.uint8)


def _draw(picture: Field, part: Part, time: float) -> None:
    radius = part.style.size * PICTURE_SIZE
    centre_x, centre_y = (share * PICTURE_SIZE for share in part.style.place)
    reach = 1.35 * radius
    left, right = (_pixel(centre_x + sign * reach) for sign in (-1, 1))
    top, bottom = (_pixel(centre_y + sign * reach) for sign in (-1, 1))
    rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
    patch = picture[top:bottom, left:right]
    figure = FIGURES[part.label]
    for cover, colour in figure(columns - centre_x, rows - centre_y, radius, time, part.style):
        patch += cover[..., None] * (np.asarray(colour, np.float32) - patch)


def _pixel(position: float) -> int:
    return int(np.clip(round(position), 0, PICTURE_SIZE))


def _fill(distance: Field) -> Field:
    """Coverage of a shape from its signed distance, smooth over one pixel."""
    return np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)


def _ellipse(x: Field, y: Field, across: float, down: float) -> Field:
    """Roughly the signed distance to an ellipse with these half axes."""
    return (np.hypot(x / across, y / down) - 1.0) * min(across, down)


def _turned(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return x * cosine + y * sine, y * cosine - x * sine


def _shades(style: Style) -> tuple[tuple[float, float, float], ...]:
    """Dark, main and light colour of an individual."""
    tones = ((0.7, 0.28), (0.85, 0.85), (0.25, 1.0))
    return tuple(colorsys.hsv_to_rgb(style.hue, strength, value) for strength, value in tones)


def _background(seed: int) -> Field:
    """A soft gradient with large faint blotches, different in each film; (S, S, 3) in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:PICTURE_SIZE, 0:PICTURE_SIZE].astype(np.float32) / PICTURE_SIZE
    tone, strength = float(rng.random()), float(rng.uniform(0.05, 0.4))
    corners = [colorsys.hsv_to_rgb(tone, strength, value) for value in rng.uniform(0.35, 0.75, 2)]
    share = (rows * rng.uniform(0.3, 1.0) + columns * rng.uniform(0.0, 0.4))[..., None]
    picture = (1 - share) * np.asarray(corners[0]) + share * np.asarray(corners[1])
    for _ in range(5):
        x, y, size = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.3)
        blotch = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / size**2)
        picture += rng.uniform(-0.1, 0.1) * blotch[..., None]
    return np.clip(picture, 0, 1).astype(np.float32)
