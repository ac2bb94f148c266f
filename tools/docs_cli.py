"""The page of the command line, made from the Typer program itself: every verb, argument and option."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any


def markdown() -> str:
    """The page."""
    import typer

    from sparseland.cli.app import app

    parts = [
        "# Command line", "",
        "`sparseland VERB --help` says the same in a terminal. Every verb ends with status 0 when it is done, 1 when a "
        "run failed, 2 after wrong input (one line says what was given and what was possible) and 130 after Ctrl-C.",
        "",
    ]  # fmt: skip
    group: Any = typer.main.get_command(app)
    for name, command in _commands(group, ()):
        parts += _section(name, command)
    return "\n".join(parts)


def verbs() -> list[str]:
    """``train``, ``recipe show``, …"""
    import typer

    from sparseland.cli.app import app

    return [name for name, _ in _commands(typer.main.get_command(app), ())]


def _commands(group: Any, above: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*above, name))
        else:
            yield " ".join((*above, name)), command


def _section(name: str, command: Any) -> list[str]:
    parameters = [p for p in command.params if not getattr(p, "hidden", False) and "--help" not in p.opts]
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    options = [p for p in parameters if p.param_type_name == "option"]
    words = [_metavar(p) if p.required else f"[{_metavar(p)}]" for p in arguments]
    words += [f"{p.opts[0]} {_metavar(p)}" for p in options if p.required] + (["[OPTIONS]"] if options else [])
    lines = [f"## {name}", "", "```text", f"sparseland {name} {' '.join(words)}", "```", ""]
    lines += [_help(command.help or ""), ""]
    if parameters:
        lines += ["| argument or option | what it is | default |", "|---|---|---|"]
        lines += [_row(p, p in arguments) for p in parameters]
        lines.append("")
    return lines


def _row(parameter: Any, is_argument: bool) -> str:
    flag = getattr(parameter, "is_flag", False)
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    shown = f"`{_metavar(parameter)}`" if is_argument else names + ("" if flag else f" `{_metavar(parameter)}`")
    default = parameter.default
    empty = default is None or default is False or callable(default) or default in ((), [], "")
    said = "required" if parameter.required else "" if empty or _unset(default) else f"`{default}`"
    again = " May be given several times." if getattr(parameter, "multiple", False) else ""
    variable = f" Environment: `{parameter.envvar}`." if getattr(parameter, "envvar", None) else ""
    return (
        "| "
        + " | ".join(_cell(text) for text in (shown, _inline(parameter.help or "") + again + variable, said))
        + " |"
    )


def _unset(value: Any) -> bool:
    return "UNSET" in repr(value).upper()


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or _kind(parameter) or parameter.name.upper())


def _kind(parameter: Any) -> str:
    """N for integers and X for other numbers; typer and click keep the type in different places."""
    kept = getattr(parameter, "type_descriptor", None)
    name = getattr(getattr(kept, "annotation", None), "__name__", "") or getattr(
        getattr(parameter, "type", None), "name", ""
    )
    return {"int": "N", "integer": "N", "float": "X"}.get(name, "")


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _inline(text: str) -> str:
    """Rich's marks as Markdown."""
    text = re.sub(r"\[b(?:old)?\](.*?)\[/b(?:old)?\]", r"**\1**", text)
    return re.sub(r"\[/?dim\]", "", text)


def _help(text: str) -> str:
    """A docstring: its indented examples are code in Markdown as well."""
    out, inside = [], False
    for line in _inline(inspect.cleandoc(text)).splitlines():
        code = line.startswith("    ")
        if code != inside and (code or line.strip()):
            out.append("```bash" if code else "```")
            inside = code
            if not code:
                out.append("")
        out.append(line.strip() if code else line)
    return "\n".join([*out, "```"] if inside else out)
