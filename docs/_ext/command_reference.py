"""Reference of the command line, from its argparse parsers."""

from __future__ import annotations

import argparse
import functools
import re
import textwrap

from markup import escaped, heading, indented

WIDTH = 92
"""Columns of the usage lines."""


def command_reference(parser: argparse.ArgumentParser, level: int = 0) -> str:
    """A section for a command and each of its subcommands.

    Parameters
    ----------
    parser
        Parser of the command.
    level
        Level of its section title.
    """
    parser.formatter_class = functools.partial(_formatter_of(parser), width=WIDTH)
    usage = re.sub(r"(?m)^(usage: | {7})", "", parser.format_usage())
    parts = [
        f".. _command-{parser.prog.replace(' ', '-')}:\n",
        heading(parser.prog, level),
        prose(parser.description or ""),
        f".. code-block:: text\n\n{indented(usage.strip())}\n",
        f".. program:: {parser.prog}\n",
    ]
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
        ]
        shown = [a for a in actions if not isinstance(a, argparse._SubParsersAction)]
        if not shown:
            continue
        if group.title not in ("positional arguments", "options"):
            parts.append(f".. rubric:: {escaped(group.title or '')}\n")
            parts.append(prose(group.description or ""))
        parts += [_option(action, formatter) for action in shown]
    parts.append(prose(parser.epilog or ""))
    for subparser in subcommands(parser).values():
        parts.append(command_reference(subparser, level + 1))
    return "\n".join(parts)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Parsers of the subcommands, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def prose(text: str) -> str:
    """Help text as paragraphs; indented lines, as of examples, stay as they are."""
    parts: list[str] = []
    if not text.strip():
        return ""
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n")):
        lines = paragraph.splitlines()
        plain = [line for line in lines if not line[0].isspace()]
        if len(plain) == len(lines):
            parts.append(escaped(" ".join(lines)))
        elif len(plain) == 1 and not lines[0][0].isspace():
            parts.append(f"{escaped(lines[0].capitalize())}\n")
            block = textwrap.dedent("\n".join(lines[1:]))
            parts.append(f".. code-block:: console\n\n{indented(block)}")
        else:
            parts.append(f".. code-block:: text\n\n{indented(paragraph)}")
    return "\n\n".join(parts) + "\n"


def _option(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    """Directive that describes one argument."""
    value = ""
    if action.nargs != 0:
        value = formatter._format_args(action, _metavar(action))
    names = [f"{name} {value}".rstrip() for name in action.option_strings] or [value]
    text = escaped(" ".join(formatter._expand_help(action).split())) if action.help else ""
    if action.required and action.option_strings:
        text += " (required)"
    return f".. option:: {', '.join(names)}\n\n{indented(text)}\n"


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        return "{" + ",".join(str(choice) for choice in action.choices) + "}"
    return action.dest.upper()


def _formatter_of(parser: argparse.ArgumentParser) -> type[argparse.HelpFormatter]:
    formatter = parser.formatter_class
    return formatter.func if isinstance(formatter, functools.partial) else formatter
