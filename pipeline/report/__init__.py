"""The HTML page: player, timeline and events of some videos in one file that works offline."""

from pipeline.report.page import render_page

__all__ = ["render_page"]
