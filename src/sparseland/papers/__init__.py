"""The published systems this library sets out to reproduce, how far each one is, and what a result of one says."""

from . import charts, record
from .catalog import STATUS, System, packaged, result_of, results, systems
from .result import SCHEMA, VERDICTS, Claim, PaperResult, Part, Row, check, read, reference

__all__ = [
    "SCHEMA",
    "STATUS",
    "VERDICTS",
    "Claim",
    "PaperResult",
    "Part",
    "Row",
    "System",
    "charts",
    "check",
    "packaged",
    "read",
    "record",
    "reference",
    "result_of",
    "results",
    "systems",
]
