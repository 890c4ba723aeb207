"""stope demo: the whole loop on real text that lies on every machine."""

from __future__ import annotations

from stope.demo.pipeline import DemoReport, Stage, run

__all__ = ["DemoReport", "Stage", "run"]
