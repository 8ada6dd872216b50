"""The commands by name, each imported when it is used, and none of what its arguments do not need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Final

import typer
import typer.core
import typer.main

SUMMARIES: Final = {
    "init": "Make the database and the Monitor views where they are missing.",
    "push": "Put tokens into the pool: one per line of JSON Lines, CSV or text.",
    "run": "Run a pilot: claim tokens and work them, until there are no more.",
    "map": "Run a command for each line of a file, to the end; --resume goes on after a break.",
    "status": "Show how many tokens are in todo, locked, done and error, or how single tokens are.",
    "ls": "List tokens: by state, field and age; sorted, in columns of your choice, or as JSON.",
    "show": "Show single tokens whole: state, owner, attempts, errors, attachments and fields.",
    "logs": "Show what a token's command or worker process has printed, also while it runs.",
    "explain": "Say why a token does not run.",
    "attachments": "List the attachments of a token, write one to a file, or put one in.",
    "edit": "Change fields of tokens, in your editor or with --set.",
    "reset": "Put tokens back to todo, as if they were new: those of views, or single ones.",
    "release": "Put tokens back to todo at once that pilots hold which are gone.",
    "delete": "Delete the tokens of views, or single tokens.",
    "archive": "Move tokens out of the pool, into a compressed archive.",
    "export": "Write tokens with their attachments to a file, as JSON Lines.",
    "import": "Put exported or archived tokens into the pool, as they were.",
    "flush": "Write finished results to the pool that a pilot could not write.",
    "heal": "Heal tokens that a CouchDB cluster stores in several versions.",
    "progress": "Tell, from a command, how far the work on its token is.",
    "pilots": "Show who is at work: pilots by what they hold, where, and when they last gave a sign of life.",
    "views": "List the views of a pool, and add some of your own.",
    "users": "Say who may use a CouchDB database; add accounts.",
    "passwd": "Keep the password for a pool, or change it on the server.",
    "config": "Show what is configured and where each value comes from; change it.",
    "doctor": "Look whether everything is as it should be, and say what to do where it is not.",
    "bench": "Measure how fast a pool is, in a database of its own.",
    "zipapp": "Write all of apicas into one file, for nodes where nothing can be installed.",
    "completion": "Print what makes a shell complete the words of `apicas`.",
}
"""The commands in the order of the help, and the first sentence of each. The function and its file have its name."""


_MODULES: Final = {"logs": "token_logs", "import": "import_"}
"""Those whose file has another name."""
_METHOD: Final = "process_value"


class Commands(typer.core.TyperGroup):
    """All commands. The help of the program, and `apicas status`, import nothing of what `apicas run` needs."""

    def __init__(self, **keywords: Any) -> None:
        named: dict[str, Any] = {name: typer.core.TyperCommand(name) for name in SUMMARIES}
        super().__init__(**{**keywords, "commands": named})

    def get_params(self, ctx: Any) -> Any:
        """The options."""
        return _spared(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command; None where there is none."""
        del ctx
        return command(cmd_name) if cmd_name in SUMMARIES else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


class Command(typer.core.TyperCommand):
    """One command."""

    def get_params(self, ctx: Any) -> Any:
        """The arguments and options."""
        return _spared(super().get_params(ctx))


class Group(typer.core.TyperGroup):
    """A command with commands of its own, as `apicas views add`."""

    def get_params(self, ctx: Any) -> Any:
        """The options."""
        return _spared(super().get_params(ctx))


def command(name: str) -> Any:
    """Import a command, and make it."""
    module = import_module(f"apicas.cli.{_MODULES.get(name, name)}")
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    if hasattr(module, "SUBCOMMANDS"):
        return _group(name, module, alone)
    function = getattr(module, name, None) or getattr(module, f"{name}_")  # a word of Python's has a line behind it
    alone.command(name, cls=getattr(module, "COMMAND", Command), epilog=module.EPILOG)(function)
    return typer.main.get_command(alone)


def _group(name: str, module: Any, together: typer.Typer) -> Any:
    """A command of a module that has SUBCOMMANDS: functions and their epilogs, by name."""
    together.callback(cls=Group, help=SUMMARIES[name], epilog=module.EPILOG, no_args_is_help=True)(_nothing)
    for short, (function, epilog) in module.SUBCOMMANDS.items():
        together.command(short, cls=Command, epilog=epilog)(function)
    return typer.main.get_command(together)


def _nothing() -> None:
    """What a group does besides its commands."""


def _spared(parameters: Sequence[Any]) -> Sequence[Any]:
    """Parameters that leave a value as it is that needs no conversion.

    typer would import pydantic to find out that it needs none, which takes longer than all the rest of a short command.
    """
    for parameter in parameters:
        if _METHOD not in vars(parameter):
            setattr(parameter, _METHOD, partial(_process, parameter, parameter.process_value))
    return parameters


def _process(parameter: Any, convert: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    if (number := _number(parameter, value)) is not None:
        value = number
    elif parameter.type_descriptor.annotation == list[str] and _are_ready(parameter, value):
        value = list(value) if value else None
    elif parameter.multiple or parameter.nargs != 1 or not _is_ready(parameter, value):
        return _converted(parameter, convert, context, value)
    return value if parameter.callback is None else parameter.callback(context, parameter, value)


def _are_ready(parameter: Any, values: Any) -> bool:
    if not values:
        return values in (None, (), []) and not parameter.required
    return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)


def _number(parameter: Any, value: Any) -> float | None:
    """A value as the number that the parameter takes; None where it takes none, or the value is none."""
    kinds = {int: int, int | None: int, float: float, float | None: float}
    annotation = parameter.type_descriptor.annotation
    kind = None if parameter.multiple or annotation not in kinds else kinds[annotation]
    if kind is None or isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = kind(value)
    except ValueError:
        return None
    limits = parameter.type_descriptor.parameter_info
    too_small = getattr(limits, "min", None) is not None and number < limits.min
    too_big = getattr(limits, "max", None) is not None and number > limits.max
    return None if too_small or too_big else number


def _converted(parameter: Any, convert: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """What typer makes of a value, or says against it. It needs pydantic, which the one-file program does not have."""
    try:
        return convert(context, value)
    except ModuleNotFoundError:
        wrong = "it is missing" if value in (None, ()) else f"{value!r} is not valid here"
        raise typer.BadParameter(wrong, ctx=context, param=parameter) from None


def _is_ready(parameter: Any, value: Any) -> bool:
    if value is None:
        return not parameter.required
    return isinstance(value, str) and parameter.type_descriptor.annotation is str
