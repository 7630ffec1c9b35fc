"""What earlier attempts say of a video, and that those with nothing to say are not kept."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from extractors.storage.records import Source
from pipeline.core.ledger import Ledger, LedgerRow
from pipeline.core.ledger_row import format_row
from workflows.extraction.attempts import Attempts, attempts_at, read_attempts

SOURCE = Source(1, 2, "ab")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def attempts(ledger: Ledger, *outcomes: str, id: str = "v") -> Attempts | None:
    for time, outcome in enumerate(outcomes):
        details = {"source": SOURCE.to_json()} if outcome == "failed" else {}
        row = LedgerRow(id, outcome, reason="why", time=float(time), details=details)  # type: ignore[arg-type]
        ledger.append(row)
    return read_attempts(ledger).get(id)


@pytest.mark.parametrize(
    "outcomes",
    [
        ["started", "done"],
        ["started", "partial"],
        ["started", "failed", "started", "done"],
        ["started", "started", "quarantined", "started", "done"],
        ["started", "skipped"],
        ["skipped"],
    ],
)
def test_what_ended_well_is_not_kept(ledger: Ledger, outcomes: list[str]) -> None:
    assert attempts(ledger, *outcomes) is None


@pytest.mark.parametrize(
    ("outcomes", "crashes", "failed", "quarantined"),
    [
        (["started"], 1, False, False),
        (["started", "started"], 2, False, False),
        (["started", "done", "started"], 1, False, False),
        (["started", "skipped", "started"], 1, False, False),
        (["started", "failed"], 0, True, False),
        (["started", "failed", "started"], 1, True, False),
        (["started", "failed", "started", "skipped"], 0, True, False),
        (["started", "started", "quarantined"], 2, False, True),
        (["quarantined"], 2, False, True),
        (["started", "started", "quarantined", "started"], 3, False, False),
    ],
)
def test_what_did_not_is(
    ledger: Ledger, outcomes: list[str], crashes: int, failed: bool, quarantined: bool
) -> None:
    found = attempts(ledger, *outcomes)
    assert found is not None and found == attempts_at(ledger, "v")
    assert (found.crashes, found.failed, found.quarantined) == (crashes, failed, quarantined)
    assert found.source == (SOURCE if failed else None)


def test_what_is_kept_says_all_that_is_said_when_everything_is_kept(ledger: Ledger) -> None:
    """Leaving out and beginning anew gives the same, whatever came before."""
    outcomes = ("started", "done", "failed", "quarantined", "skipped")
    ledger.directory.mkdir()
    with (ledger.directory / "host-1-0.jsonl").open("wb") as handle:
        for number, word in enumerate(itertools.product(outcomes, repeat=3)):
            for outcome in word:
                handle.write(format_row(LedgerRow(f"{number}", outcome)))  # type: ignore[arg-type]
    kept = read_attempts(ledger)
    for number, word in enumerate(itertools.product(outcomes, repeat=3)):
        found = kept.get(f"{number}", Attempts())
        tail = word[len(word) - word[::-1].index("done") :] if "done" in word else word
        ended = [outcome for outcome in tail if outcome in ("failed", "quarantined")]
        assert found.failed == ("failed" in ended), word
        if tail and tail[-1] == "started":
            assert found.crashes >= 1
        if not tail or set(tail) == {"skipped"}:
            assert f"{number}" not in kept
        assert attempts_at(ledger, f"{number}") == found, word


@pytest.mark.parametrize("source", ["text", {}, {"size": "many"}, [1], {"size": 1e400}])
def test_a_fingerprint_that_is_none_is_as_good_as_none(ledger: Ledger, source: object) -> None:
    ledger.directory.mkdir()
    line = format_row(LedgerRow("v", "failed", details={"source": None}))
    plain = json.dumps(source).encode()
    (ledger.directory / "stranger.jsonl").write_bytes(line.replace(b"null", plain))
    (past,) = read_attempts(ledger).values()
    assert past.failed and past.source is None
