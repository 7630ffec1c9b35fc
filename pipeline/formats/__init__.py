"""Event file formats: a table of writers, and the two ways to use it.

`write` makes one file (or text on an open stream), `write_folder` one or more files in a folder.
A new format is one module with a render function and one row of `FORMATS`. `read` is the way back,
for the formats of `READERS`.
"""

from pipeline.formats.read import READERS, read
from pipeline.formats.table import FORMATS, Writer, format_writer
from pipeline.formats.write import write, write_folder

__all__ = ["FORMATS", "READERS", "Writer", "format_writer", "read", "write", "write_folder"]
