"""Put events, template, style and script together into one self-contained page."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.events import Detections
from pipeline.report.assets import asset, fill, source_hash
from pipeline.report.payload import video_payload


def render_page(detections: Sequence[Detections], *, folder: Path | None = None) -> str:
    """One page for some videos.

    It loads nothing from elsewhere: its content security policy admits exactly its own script and
    style (by hash) and media files. Events, names and curves travel as a JSON data block and reach
    the page as text only, so that no file name or label can become markup.

    Args:
        detections: One entry a video, in the order of the page's menu.
        folder: Where the page will lie; videos are referred to relative to it, so that page and
            videos can be moved together. None: by absolute file address.

    Returns:
        The HTML text.
    """
    data = {"videos": [video_payload(entry, folder) for entry in detections]}
    script, style = asset("app.js"), asset("style.css")
    title = detections[0].video if len(detections) == 1 else f"Events in {len(detections)} videos"
    parts = {
        "title": html.escape(title),
        "policy": html.escape(_policy(script, style)),
        "style": style,
        "script": script,
        "data": _json_block(data),
    }
    return fill(asset("page.html"), parts)


def _policy(script: str, style: str) -> str:
    return (
        f"default-src 'none'; script-src {source_hash(script)}; style-src {source_hash(style)}; "
        "media-src 'self' file: blob:; base-uri 'none'; form-action 'none'"
    )


def _json_block(value: Any) -> str:
    """JSON for a script element: no character that could end the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
