"""Read ELAN annotation files: those of `pipeline.formats.elan`, and those that people made."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.core.events import Detections, Event
from pipeline.formats.gather import gather, video_of

_SCORED = re.compile(r"(?P<label>.+) (?P<score>\d\.\d{2})")
_FURTHER = re.compile(r" \(\d+\)$")  # of tiers for events of a class that overlap


def parse(text: str, source: Path) -> list[Detections]:
    """One video: an event for each annotation that has times of its own.

    Where the text is the tier's name and a score, as our writer says it, these are taken; else the
    text is the class, and the tier's name where there is no text. Annotations that refer to others
    have no times and are left out.

    Raises:
        ValueError: No ELAN file, or an annotation without times.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities, which no ELAN file does")
    try:
        root = ET.fromstring(text)  # noqa: S314 - without entities there is nothing to expand
    except ET.ParseError as error:
        raise ValueError(f"it is no XML: {error}") from error
    if root.tag != "ANNOTATION_DOCUMENT":
        raise ValueError(f"its root is {root.tag} and not ANNOTATION_DOCUMENT")
    slots = {
        slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iterfind(".//TIME_SLOT")
    }
    video, found = _video(root) or video_of(source), []
    for tier in root.iterfind("TIER"):
        for annotation in tier.iterfind(".//ALIGNABLE_ANNOTATION"):
            start, end = (
                _seconds(slots.get(annotation.get(f"TIME_SLOT_REF{number}")), annotation)
                for number in (1, 2)
            )
            label, score = _meaning(tier.get("TIER_ID", ""), annotation)
            found.append((video, Event(start, end, label, score)))
    return gather(found, {video: 0.0})


def _seconds(value: str | None, annotation: ET.Element) -> float:
    if value is None:
        raise ValueError(f"the annotation {annotation.get('ANNOTATION_ID')} has no time")
    return int(value) / 1000


def _meaning(tier: str, annotation: ET.Element) -> tuple[str, float]:
    text = (annotation.findtext("ANNOTATION_VALUE") or "").strip()
    scored = _SCORED.fullmatch(text)
    if scored and scored["label"] in (tier, _FURTHER.sub("", tier)):
        return scored["label"], float(scored["score"])
    return text or tier, 1.0


def _video(root: ET.Element) -> str:
    """Name of the video as its descriptor gives it; "" without one."""
    media = root.find(".//MEDIA_DESCRIPTOR")
    if media is None:
        return ""
    url = media.get("MEDIA_URL", "")
    return unquote(urlsplit(url).path) if url.startswith("file:") else url
