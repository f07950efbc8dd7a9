"""A run on one HTML page."""

from curation.report.page import write_report as write_report
