"""Seconds to windows and back, as properties over many grids."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.windows import WindowGrid, first_frame

UNAV = WindowGrid()
RATES = [Fraction(16), Fraction(25), Fraction(8), Fraction(1), Fraction(25, 2), Fraction(100, 3)]


@st.composite
def grids(draw: st.DrawFn) -> WindowGrid:
    fps = draw(st.sampled_from(RATES))
    frames = fps.numerator  # whole multiples of it last a whole number of samples
    unit = 1 if (16_000 / fps).denominator == 1 else frames
    window = unit * draw(st.integers(1, 40))
    stride = unit * draw(st.integers(1, 40))
    lookahead = draw(st.integers(0, 2))
    return WindowGrid(fps=fps, window=window, stride=stride, lookahead=lookahead)


seconds = st.floats(0, 36_000, allow_nan=False)
steps = st.integers(0, 500_000)


@given(grids(), steps)
def test_a_step_comes_back_from_its_centre_exactly(grid: WindowGrid, step: int) -> None:
    start, end = grid.span(step)
    assert grid.to_grid((start + end) / 2) == pytest.approx(step, abs=1e-6)
    assert round(float(grid.to_grid(grid.to_seconds(step)))) == step


@given(grids(), seconds)
def test_seconds_survive_the_way_to_the_grid_and_back(grid: WindowGrid, second: float) -> None:
    assert float(grid.to_seconds(grid.to_grid(second))) == pytest.approx(second, abs=1e-8)


@given(grids(), steps)
def test_windows_lie_a_stride_apart_and_cover_the_same_sound(grid: WindowGrid, step: int) -> None:
    start, end = grid.span(step)
    assert end - start == pytest.approx(grid.window_seconds)
    assert Fraction(step * grid.stride, 1) / grid.fps == Fraction(
        step * grid.stride_samples, grid.sample_rate
    )
    assert start == pytest.approx(step * grid.stride_samples / grid.sample_rate)
    assert grid.window_samples == grid.window_seconds * grid.sample_rate


@given(grids(), st.integers(0, 2_000_000))
def test_the_number_of_steps_follows_the_formula(grid: WindowGrid, frames: int) -> None:
    duration = float(frames / grid.fps)
    assert grid.frame_count(duration) == frames
    whole = math.floor((frames - grid.window - grid.lookahead) / grid.stride) + 1
    assert grid.whole_steps(duration) == max(0, whole)
    assert grid.steps(duration) == max(1, whole)


@given(grids(), seconds)
def test_every_window_but_a_lonely_first_one_ends_inside_the_media(
    grid: WindowGrid, duration: float
) -> None:
    count = grid.steps(duration)
    lookahead = float(grid.lookahead / grid.fps)
    if count > 1:
        assert grid.span(count - 1)[1] + lookahead <= duration + 1e-5
    assert grid.span(count)[1] + lookahead > duration - 1e-5


@given(st.integers(0, 1_000_000), st.sampled_from(RATES))
def test_a_sample_time_is_its_own_first_sample(frame: int, fps: Fraction) -> None:
    assert first_frame(float(frame / fps), fps) == frame


@given(seconds, st.sampled_from(RATES))
def test_the_first_sample_is_not_before_the_second_it_is_asked_for(
    second: float, fps: Fraction
) -> None:
    frame = first_frame(second, fps)
    assert frame / fps >= second - 2e-6
    assert frame == 0 or (frame - 1) / fps < second


@given(grids(), st.floats(0.01, 600), st.floats(0, 1), st.floats(0, 1))
def test_a_mask_is_true_where_half_of_a_window_is_covered(
    grid: WindowGrid, duration: float, low: float, high: float
) -> None:
    start, end = sorted((low * duration, high * duration))
    count = min(grid.steps(duration), 2000)
    mask = grid.mask(count, start, end, duration)
    for step in (0, count // 2, count - 1):
        first, last = grid.span(step)
        last = min(last, duration)
        covered = (min(last, end) - max(first, start)) / (last - first)
        if abs(covered - 0.5) > 1e-3:
            assert mask[step] == (covered > 0.5)


def test_unav_grid_gives_the_published_numbers() -> None:
    assert UNAV.steps(60.0) == 237
    assert UNAV.span(1) == (0.25, 1.25)
    assert UNAV.centres(3).tolist() == [0.5, 0.75, 1.0]
    assert (UNAV.window_samples, UNAV.stride_samples) == (16_000, 4_000)


@pytest.mark.parametrize("duration", [0.0, 0.04, 0.1, 0.999, 1.0, 1.249])
def test_anything_shorter_than_two_windows_has_one_step(duration: float) -> None:
    assert UNAV.steps(duration) == 1


def test_a_stream_that_covers_all_of_a_short_file_is_valid() -> None:
    assert UNAV.mask(1, 0.0, 0.1, 0.1).tolist() == [True]
    assert UNAV.mask(1, 0.0, 0.0, 0.1).tolist() == [False]


def test_a_late_stream_is_valid_from_half_a_window_on() -> None:
    mask = UNAV.mask(17, 2.0, 5.0, 5.0)
    assert np.flatnonzero(mask)[0] == 6  # covers [1.5, 2.5) s
    assert mask[6:].all()


@pytest.mark.parametrize(
    "grid", [UNAV, WindowGrid(fps=Fraction(25), window=24, stride=8, lookahead=1)]
)
def test_a_grid_returns_from_json_as_it_was(grid: WindowGrid) -> None:
    assert WindowGrid.from_json(grid.to_json()) == grid


def test_grids_without_a_lookahead_are_written_as_they_always_were() -> None:
    """Digests of stores are made from it."""
    assert UNAV.to_json() == {"fps": "16", "window": 16, "stride": 4, "sample_rate": 16_000}


@pytest.mark.parametrize(
    "values",
    [
        {"fps": Fraction(0)},
        {"window": 0},
        {"stride": -1},
        {"sample_rate": 0},
        {"lookahead": -1},
        {"fps": Fraction(30000, 1001), "window": 16, "stride": 4},
    ],
)
def test_a_grid_that_cannot_be_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be positive|whole number of samples|negative"):
        WindowGrid(**values)  # type: ignore[arg-type]
