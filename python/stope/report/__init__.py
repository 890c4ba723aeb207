"""Pages that people look at: one self-contained HTML file each, and the same figures as pictures.

A `Page` is a value: sections of sentences, numbers, `figures.Figure` and `pages.Table`. What is on
it is decided by one function per kind of input, and how it looks in `pages` and `figures` alone.
"""

from stope.report.mining import of_table
from stope.report.pages import Page
from stope.report.ranking import of_run

__all__ = ["Page", "of_run", "of_table"]
