"""What reading a zip archive from elsewhere can raise, said once for all who read one."""

from __future__ import annotations

import zipfile
import zlib

# Damaged (BadZipFile, zlib.error, EOFError), packed in a way that is not known here
# (NotImplementedError), or encrypted, for which zipfile has no type of its own (RuntimeError).
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
