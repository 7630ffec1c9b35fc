"""Agreement of two sets of scores, against its definition written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.agreement import agreement, calibrate

probability = st.floats(0.001, 0.999)


def scores(audio: float, vision: float) -> float:
    return float(agreement(np.float32([[audio]]), np.float32([[vision]]))[0, 0])


@given(probability, probability)
def test_agreement_is_symmetric_and_never_above_the_weaker_half(p: float, q: float) -> None:
    assert scores(p, q) == pytest.approx(scores(q, p), abs=1e-6)
    assert 0 <= scores(p, q) <= math.sqrt(p * q) + 1e-6
    assert scores(p, p) == pytest.approx(p, abs=1e-4)


def test_agreement_needs_both_confidence_and_consent() -> None:
    assert scores(0.95, 0.95) > 0.9
    assert scores(0.001, 0.001) < 0.01, "silence is no agreement"
    assert scores(0.95, 0.01) < 0.05, "one side alone is no agreement"


def test_two_events_at_once_do_not_weaken_each_other() -> None:
    one = agreement(np.float32([[0.9, 0.01]]), np.float32([[0.9, 0.01]]))
    two = agreement(np.float32([[0.9, 0.9]]), np.float32([[0.9, 0.9]]))
    assert two[0, 0] == one[0, 0] == two[0, 1]


def test_calibration_is_even_at_its_midpoint_and_keeps_the_order() -> None:
    raw = np.float32([[0.0], [0.01], [0.02], [0.5], [1.0]])
    found = calibrate(raw, slope=0.65, midpoint=math.log(0.02 / 0.98))[:, 0]
    assert found[2] == pytest.approx(0.5, abs=1e-4)
    assert np.all(np.diff(found) > 0) and np.all((found >= 0) & (found <= 1))


def test_calibration_takes_a_midpoint_for_each_class() -> None:
    midpoints = np.float32([math.log(0.1 / 0.9), math.log(0.4 / 0.6)])
    found = calibrate(np.float32([[0.1, 0.4]]), slope=1.0, midpoint=midpoints)
    assert found == pytest.approx(np.full((1, 2), 0.5), abs=1e-4)
