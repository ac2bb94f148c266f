"""SVG that takes its colours from the page (light or dark) and its names from it too.

Colours are drawn as placeholders and then turned into CSS variables: method i is ``var(--m<i>)``, text is
``currentColor``, faint lines are ``var(--line)``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT, FAINT = "#010203", "#040506"
SIZE = (4.4, 3.0)  # inches; about the width of a phone, so that the text keeps its size
MARKERS = "osD^vPX*<>"  # matplotlib's; the page's legends draw the same shapes
MARKS = (
    "M-4 0A4 4 0 1 1 4 0A4 4 0 1 1 -4 0Z", "M-3.6-3.6H3.6V3.6H-3.6Z", "M0-4.8L4.8 0L0 4.8L-4.8 0Z",
    "M0-4.4L4.4 4H-4.4Z", "M0 4.4L4.4-4H-4.4Z", "M-1.6-4.4H1.6V-1.6H4.4V1.6H1.6V4.4H-1.6V1.6H-4.4V-1.6H-1.6Z",
    "M-2.2-4.4L0-2.2L2.2-4.4L4.4-2.2L2.2 0L4.4 2.2L2.2 4.4L0 2.2L-2.2 4.4L-4.4 2.2L-2.2 0L-4.4-2.2Z",
    "M0-5L1.2-1.6L4.8-1.5L1.9.6L2.9 4L0 2L-2.9 4L-1.9.6L-4.8-1.5L-1.2-1.6Z", "M-4.4 0L4-4.4V4.4Z", "M4.4 0L-4-4.4V4.4Z",
)  # fmt: skip


def color(i: int) -> str:
    """The placeholder of method ``i``."""
    return f"#a0b0{i:02x}"


def figure(title: str, draw: Callable[[Axes], object], size: tuple[float, float] = SIZE, salt: str = "") -> str:
    """Draw on a pair of axes and return ``<svg>`` with ``title`` as its accessible name."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "sparseland", "font.size": 10.5, "axes.edgecolor": FAINT,
        "axes.labelcolor": TEXT, "text.color": TEXT, "xtick.color": TEXT, "ytick.color": TEXT,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": FAINT,
        "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.8, "errorbar.capsize": 3,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        made = Figure(figsize=size, layout="constrained")
        draw(made.add_subplot())
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_the_page(buffer.getvalue(), title, salt or re.sub(r"\W+", "-", title.lower()))


def _for_the_page(svg: str, title: str, salt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{escape(title)}">', svg
    )
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', svg)  # several figures share a page
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{salt}-\1"', svg)
    svg = re.sub(r"#a0b0([0-9a-f]{2})", lambda found: f"var(--m{int(found[1], 16)})", svg)
    svg = svg.replace(TEXT, "currentColor").replace(FAINT, "var(--line)")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)  # the family is the page's
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r"(\d+\.\d\d)\d+", r"\1", svg)
    return re.sub(r"\s*\n\s*", " ", svg).strip()
