"""Errors that a user sees: one sentence that names the thing, its value, the limit and the way out.

Every error carries the exit code of the command line:
1 some items failed, 2 usage or configuration, 3 environment, 4 nothing matched.
"""

from __future__ import annotations

from os import PathLike, fspath


class PipelineError(Exception):
    """Base of all errors meant for the user.

    Args:
        message: What is wrong, naming the thing and its value.
        hint: The way out, as an imperative sentence; shown after the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class MediaError(PipelineError):
    """A media file cannot be read, or what it holds cannot be used.

    Args:
        path: The file.
        reason: What is wrong with it, without the path.
        hint: The way out.
    """

    def __init__(self, path: str | PathLike[str], reason: str, *, hint: str | None = None) -> None:
        self.path = fspath(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}", hint=hint)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_media_error, (type(self), self.path, self.reason, self.hint)


def _rebuild_media_error(
    cls: type[MediaError], path: str, reason: str, hint: str | None
) -> MediaError:
    """Errors cross process borders; the default pickling would lose the keyword argument."""
    return cls(path, reason, hint=hint)


class UsageError(PipelineError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration or annotation file holds a wrong key or value."""


class StoreError(PipelineError):
    """A feature store is damaged, or belongs to another backbone."""

    exit_code = 2


class CheckpointError(PipelineError):
    """A checkpoint cannot be read, or does not fit the features it is given."""

    exit_code = 2


class EnvironmentFault(PipelineError):  # noqa: N818 - the machine is at fault, not the program
    """Something the program needs is missing on this machine: ffmpeg, weights, a device."""

    exit_code = 3


class OutOfMemoryFault(PipelineError):  # noqa: N818 - as `EnvironmentFault`
    """A net found no room in the memory of its device. Another video may need less."""

    exit_code = 3


class DecoderEndedError(PipelineError):
    """Somebody else ended a decoder: the system, or whoever ends a whole job.

    It says nothing of the file, which may be tried again.
    """

    exit_code = 3


class NothingMatchedError(PipelineError):
    """The inputs name no media file."""

    exit_code = 4
