"""Templates, scripts and styles of the pages, and how they are put together."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources


def asset(name: str) -> str:
    """Text of a file beside this one."""
    return resources.files("pipeline.report").joinpath(name).read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    """What a content security policy calls an inline script or style by."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Put each part in the place of its ``{{name}}``.

    One pass, so that nothing that was filled in is searched for placeholders again.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
