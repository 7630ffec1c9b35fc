"""One answer of one server: a file, or the rest of it, over HTTP.

Everything that a server may get wrong is judged here: which way it sends us, which part of the file
it sends, and what it says of its length. Nothing here writes to disk.

Redirects are followed, up to `REDIRECTS`, and never from a secure line to an open one; only this
machine itself may answer in the open. Proxies are taken from the environment, as everywhere.

Source of the rules of ranges: RFC 9110, sections 8.8 (validators), 13.1.5 (If-Range) and 14.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

TIMEOUT_S = 60.0  # without a single byte
REDIRECTS = 10
BLOCK_BYTES = 1 << 20
LONGEST_WAIT_S = 120.0  # that a server may ask for
# Requests that ended so may end otherwise when they are made again.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
OUT_OF_RANGE = 416

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d+)")


class TransferRefusedError(Exception):
    """What this address answers is of no use, now and later."""


class TransferBrokenError(Exception):
    """It did not work out; it may the next time.

    Args:
        reason: What happened.
        wait: Seconds that the server asked for, None where it did not.
    """

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class RangeGoneError(Exception):
    """The file has no such part.

    Args:
        total: Its length, None where the server does not say.
    """

    def __init__(self, total: int | None) -> None:
        super().__init__(f"the server's file has {total} bytes")
        self.total = total


@dataclass(frozen=True, slots=True)
class Entity:
    """What a server says of the file it serves; another answer means another file.

    Attributes:
        total: Length in bytes, None where it is not said.
        etag: Its name for the content, "" where it gives none.
        modified: Date of its last change as the server writes it, "" where not said.
    """

    total: int | None
    etag: str
    modified: str

    @property
    def condition(self) -> str:
        """Value of If-Range that makes a server send the rest of this very content only.

        A weak name may stay when bytes change, and a date is no substitute for a name.
        """
        if self.etag:
            return "" if self.etag.startswith("W/") else self.etag
        return self.modified

    def differs_from(self, other: Entity) -> bool:
        """Whether both cannot be the same content; what one of them lacks says nothing."""
        pairs = (
            (self.total, other.total),
            (self.etag, other.etag),
            (self.modified, other.modified),
        )
        return any(ours != theirs for ours, theirs in pairs if ours and theirs)


@dataclass(frozen=True, slots=True)
class Answer:
    """A file, or the end of it, on its way.

    Attributes:
        entity: What it is a part of.
        start: Position of its first byte in the file.
        length: Bytes that will come, None where it is not said.
        body: They.
    """

    entity: Entity
    start: int
    length: int | None
    body: http.client.HTTPResponse

    def blocks(self) -> Iterator[bytes]:
        """The bytes, as they come.

        Raises:
            TransferBrokenError: The line broke, fell silent, or fewer bytes came than were
                promised.
        """
        came = 0
        while True:
            try:
                block = self.body.read1(BLOCK_BYTES)  # what is there: a break loses nothing
            except (OSError, http.client.HTTPException) as error:
                raise TransferBrokenError(f"the connection broke ({describe(error)})") from error
            if not block:
                break
            came += len(block)
            yield block
        if self.length is not None and came < self.length:
            raise TransferBrokenError(
                f"the connection ended {self.length - came:,} bytes before the end"
            )


@contextmanager
def request(url: str, *, offset: int = 0, condition: str = "") -> Iterator[Answer]:
    """Ask for a file from a position on.

    Args:
        url: Its address.
        offset: Position of the first byte that is wanted.
        condition: `Entity.condition` of the beginning that is there; "" asks without one.

    Yields:
        What comes: from ``offset`` on, or from 0 where the server does not serve parts or has
        another content now.

    Raises:
        TransferRefusedError: No such file, a web page instead, another part than was asked for, or
            an address that is not asked.
        TransferBrokenError: No connection, or the server asks to come back later.
        RangeGoneError: The file ends before ``offset``.
    """
    refuse_open_line(url)
    headers = {"User-Agent": "davel-pipeline", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if condition:
            headers["If-Range"] = condition
    asked = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme was looked at
    with closing(_open(asked)) as response:
        yield _understand(response, offset)


def refuse_open_line(url: str) -> None:
    """Let HTTPS pass, and HTTP to this machine itself.

    Raises:
        TransferRefusedError: Anything else.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname):
        return
    raise TransferRefusedError(f"{url} is no https address")


def describe(error: BaseException) -> str:
    """An error of the network in a few words."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return f"silence for {TIMEOUT_S:g} s"
    return str(reason) or type(reason).__name__


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        refuse_open_line(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(asked: urllib.request.Request) -> Any:
    """The response to a request, its errors sorted by whether trying again may help."""
    try:
        return urllib.request.build_opener(_Redirects).open(asked, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with closing(error):
            raise _judge(error) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise TransferRefusedError(
                f"its certificate is not trusted ({error.reason.verify_message})"
            ) from error
        raise TransferBrokenError(f"no connection ({describe(error)})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TransferBrokenError(f"no answer ({describe(error)})") from error


def _judge(error: urllib.error.HTTPError) -> Exception:
    """What an answer that is no file means."""
    if error.code == OUT_OF_RANGE:
        found = _UNSATISFIED.fullmatch(error.headers.get("Content-Range", ""))
        return RangeGoneError(int(found[1]) if found else None)
    if error.code in range(300, 400):
        reason = str(error.msg).splitlines()[0]
        return TransferRefusedError(f"its redirect cannot be followed ({reason})")
    said = f"it answers {error.code} {error.reason}".rstrip()
    if error.code not in PASSING:
        return TransferRefusedError(said)
    wait = error.headers.get("Retry-After", "")
    seconds = min(float(wait), LONGEST_WAIT_S) if wait.isdigit() else None
    return TransferBrokenError(said, wait=seconds)


def _understand(response: Any, offset: int) -> Answer:
    """What a response with a body says of itself, held against what was asked for."""
    headers = response.headers
    kind = headers.get_content_type() if "Content-Type" in headers else ""
    if kind in ("text/html", "application/xhtml+xml"):
        raise TransferRefusedError("it answers with a web page instead of the file")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise TransferRefusedError("it packs the file, which was not asked for")
    length = _number(headers.get("Content-Length"))
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    if response.status == http.HTTPStatus.OK:
        return Answer(Entity(length, etag, modified), 0, length, response)
    if response.status != http.HTTPStatus.PARTIAL_CONTENT or not offset:
        raise TransferRefusedError(f"it answers {response.status}, which was not asked for")
    first, count, total = _part(headers.get("Content-Range", ""))
    if first != offset or (length is not None and length != count):
        raise TransferRefusedError(
            f"it sends {count:,} bytes from {first:,} on where those from {offset:,} on were "
            "asked for"
        )
    return Answer(Entity(total, etag, modified), first, count, response)


def _part(text: str) -> tuple[int, int, int | None]:
    """First position, number of bytes, and length of the whole, of a Content-Range.

    A server may send less than was asked for; it is asked for the rest afterwards.
    """
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if found is None:
        raise TransferRefusedError(f"it does not say which part of the file it sends ({text!r})")
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if last < first or (total is not None and last >= total):
        raise TransferRefusedError(f"it sends a part that no file has ({text!r})")
    return first, last + 1 - first, total


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
