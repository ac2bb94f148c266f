"""The handbook as rules: guards against unfair comparisons, verdicts, and advice that rests on what was measured.

Plain data in, plain data out; nothing here trains. `preflight` looks at configurations before anything is trained,
`review` at finished runs, `verdict` at two methods; `GUARDS` lists the guards by name. `advise` answers a goal from
our own measured tables; `latency.measure` adds those of the device at hand.
"""

from __future__ import annotations

from .advice import Advice, Goal, advise
from .comparison import preflight, review
from .finding import Finding
from .guards import GUARDS, Guard
from .reasons import Reason
from .verdicts import verdict

__all__ = ["GUARDS", "Advice", "Finding", "Goal", "Guard", "Reason", "advise", "preflight", "review", "verdict"]
