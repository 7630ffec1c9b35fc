"""ELAN annotation files (EAF 3.0): one tier a class, times in whole milliseconds."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections, Event
from pipeline.formats.clock_text import milliseconds, one_line

SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
LINGUISTIC_TYPE = "event"
# XML 1.0 forbids these; a parser would refuse the whole file for one of them.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """One document; of several videos, all events (callers give one).

    Annotations of one tier must not overlap: overlapping events of a class go to further tiers,
    ``LABEL (2)`` and so on. The score is the annotation's text beside the label.
    """
    root = ET.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "davel-pipeline",
            "DATE": "1970-01-01T00:00:00+00:00",  # fixed, so that equal events give equal files
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:noNamespaceSchemaLocation": SCHEMA,
        },
    )
    header = ET.SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    for entry in detections:
        ET.SubElement(header, "MEDIA_DESCRIPTOR", _media(entry.video))
    _tiers(root, _rows([event for entry in detections for event in entry.events]))
    ET.SubElement(
        root,
        "LINGUISTIC_TYPE",
        {
            "GRAPHIC_REFERENCES": "false",
            "LINGUISTIC_TYPE_ID": LINGUISTIC_TYPE,
            "TIME_ALIGNABLE": "true",
        },
    )
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _media(video: str) -> dict[str, str]:
    path = Path(video)
    is_file = os.path.isfile(video)  # noqa: PTH113 - also says no to what cannot be a name
    located = path.resolve().as_uri() if is_file else _clean(video)
    return {"MEDIA_URL": located, "MIME_TYPE": "video/mp4", "RELATIVE_MEDIA_URL": _clean(path.name)}


def _rows(events: Sequence[Event]) -> dict[str, list[Event]]:
    """Tier name -> events by start that do not overlap; first-fit, so as few tiers as possible."""
    rows: dict[str, list[Event]] = {}
    for event in sorted(events, key=lambda e: (e.label, e.start, e.end)):
        label = _clean(one_line(event.label))
        number = 1
        while True:
            name = label if number == 1 else f"{label} ({number})"
            row = rows.setdefault(name, [])
            if not row or milliseconds(row[-1])[1] <= milliseconds(event)[0]:
                row.append(event)
                break
            number += 1
    return rows


def _tiers(root: ET.Element, rows: dict[str, list[Event]]) -> None:
    """Time slots first, as the schema wants, in time order; then the tiers that refer to them."""
    times = sorted({value for row in rows.values() for e in row for value in milliseconds(e)})
    slot = {value: f"ts{number}" for number, value in enumerate(times, start=1)}
    order = ET.SubElement(root, "TIME_ORDER")
    for value in times:
        ET.SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": slot[value], "TIME_VALUE": str(value)})
    number = 0
    for name, row in rows.items():
        tier = ET.SubElement(
            root, "TIER", {"LINGUISTIC_TYPE_REF": LINGUISTIC_TYPE, "TIER_ID": name}
        )
        for event in row:
            number += 1
            start, end = milliseconds(event)
            annotation = ET.SubElement(
                ET.SubElement(tier, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                {
                    "ANNOTATION_ID": f"a{number}",
                    "TIME_SLOT_REF1": slot[start],
                    "TIME_SLOT_REF2": slot[end],
                },
            )
            text = f"{_clean(one_line(event.label))} {event.score:.2f}"
            ET.SubElement(annotation, "ANNOTATION_VALUE").text = text


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
