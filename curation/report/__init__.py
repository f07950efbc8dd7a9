"""A run on one HTML page."""

from curation.report.page import write_report

__all__ = ["write_report"]
