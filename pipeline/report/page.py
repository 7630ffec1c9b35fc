"""Put events, template, style and script together into one self-contained page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.core.events import Detections
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
    script, style = _asset("app.js"), _asset("style.css")
    title = detections[0].video if len(detections) == 1 else f"Events in {len(detections)} videos"
    parts = {
        "title": html.escape(title),
        "policy": html.escape(_policy(script, style)),
        "style": style,
        "script": script,
        "data": _json_block(data),
    }
    # One pass, so that nothing that was filled in is searched for placeholders again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return resources.files("pipeline.report").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    return (
        f"default-src 'none'; script-src {_source_hash(script)}; style-src {_source_hash(style)}; "
        "media-src 'self' file: blob:; base-uri 'none'; form-action 'none'"
    )


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json_block(value: Any) -> str:
    """JSON for a script element: no character that could end the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
