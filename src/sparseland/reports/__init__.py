"""Reports: from finished runs to one table, one ``run.json`` and one self-contained HTML page."""

from .aggregate import aggregate, budget
from .exhibits import exhibits
from .layers import Layer, layers, satisfied
from .page import write_page
from .record import make_record, read_record, render, write_record

__all__ = [
    "Layer",
    "aggregate",
    "budget",
    "exhibits",
    "layers",
    "make_record",
    "read_record",
    "render",
    "satisfied",
    "write_page",
    "write_record",
]
