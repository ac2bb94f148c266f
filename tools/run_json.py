"""Write docs/reference/run-json.md from the models that run.json is checked with.

python tools/run_json.py            bring the page up to date
python tools/run_json.py --check    change nothing; exit 1 if the page is stale
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "run-json.md"

HEAD = """\
<!-- Made by tools/run_json.py from the models in src/sparseland/reports; do not edit. -->
# run.json

`sparseland compare` and `sparseland train` write one `run.json` beside their `report.html`. It holds everything that
the page shows: `sparseland report RUN.json` makes the page anew from this file alone, on any machine, without the data,
the weights or the program that trained them. In Python, `sparseland.reports.read_record(path)` reads and checks it, and
`sparseland.reports.render(path)` makes the page.

This page describes schema **{schema}**. The file is JSON in UTF-8, without NaN and Infinity.

- The file is checked when it is written and when it is read. A wrong type, a missing field, a number out of its range,
  or a row that the runs do not give is an error that names the JSON path, as in `runs[3].result.test.accuracy`.
- A field that is not listed here is an error too, except below a run's `result`: a `result.json` may say more than a
  report reads, and what it says is kept.
- Schema 1 (no `review`, no `allowed`) is read and upgraded in memory: the runs are reviewed when they are read. A
  later schema than {schema} is refused.
- Accuracies, sparsities and shares are fractions, not percent. A field marked *optional* may be missing or null.
- The schema's number rises when a field changes its meaning, leaves, or becomes required.
"""


def text() -> str:
    """The page."""
    from sparseland.reports import record, schema, schema_result

    parts = [HEAD.format(schema=record.SCHEMA)]
    parts += [section(model) for model in (*schema.MODELS, *schema_result.MODELS)]
    return "\n".join(parts)


def section(model: type[BaseModel]) -> str:
    """A heading, the model's meaning and the table of its fields."""
    title = "The file" if model.__name__ == "Record" else model.__name__
    said = " ".join((model.__doc__ or "").split())
    if model.model_config.get("extra") == "allow" and model.__name__ != "Result":
        said += " May have further fields."
    lines = [f"## {title}", "", said, "", "| field | type | unit | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        cells = (f"`{field.alias or name}`", kind(field), str(extra.get("unit", "")), field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def kind(field: FieldInfo) -> str:
    """The type in words: ``list of integers``, with a link where it is a model, and whether it may be missing."""
    words = _type(field.annotation)
    return words if field.is_required() else f"{words.removesuffix(' or null')}, *optional*"


def _type(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything", type(None): "null"}
    if annotation in plain:
        return plain[annotation]
    origin, inner = getattr(annotation, "__origin__", None), getattr(annotation, "__args__", ())
    if hasattr(annotation, "__metadata__"):  # Annotated[float, Field(ge=0, le=1)]
        return _type(inner[0] if inner else origin)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"object of {_type(inner[1])}" if inner[1] is not Any else "object"
    if str(origin) == "typing.Literal":
        return " or ".join(f"`{value}`" for value in inner)
    return " or ".join(_type(one) for one in inner)


def main(words: list[str] | None = None) -> int:
    """Write or check the page; 1 if it is stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the page is stale")
    check = parser.parse_args(words).check
    new = re.sub(r"[ \t]+$", "", text(), flags=re.MULTILINE)
    old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    if new == old:
        return 0
    if check:
        print(f"{PAGE.relative_to(ROOT)} is stale: run python tools/run_json.py", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(new, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
