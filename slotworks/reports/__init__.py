"""A run folder to one HTML page. Reads files only: no torch, no method, no weights."""

from slotworks.reports.lengths import write_lengths
from slotworks.reports.report import write_report
from slotworks.reports.scores import Records

__all__ = ["Records", "write_lengths", "write_report"]
