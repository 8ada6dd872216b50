"""The commands together, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Annotated

import typer

import apicas
from apicas.cli.commands import Commands
from apicas.cli.exits import EXIT_CODES, ExitCode, exit_code_of, user_error
from apicas.cli.terminal import one_line, say, tell

_EPILOG = f"""\b
A first run, on a pool in the file apicas.db:
  apicas push inputs.jsonl
  apicas run mymodule:process_token --workers 8
  apicas status

\b
The pool is what --pool names, else $APICAS_POOL, else `pool` in ./apicas.toml or in the user's config.toml, else what
PiCaS's conf.yml or ./picasconfig.py names, else sqlite:///apicas.db; `apicas config show` tells. On CouchDB:
--pool https://me@couch.example:6984/survey, with a password that `apicas passwd` keeps.

{EXIT_CODES}"""

_STATE_OPTIONS = frozenset({"--state", "--status", "--todo", "--locked", "--done", "--error"})
_TAKES_VIEWS = frozenset({"ls", "reset", "delete", "export", "archive", "edit"})
"""Commands of which people expect such options: a state is an argument there."""
_IN_A_URL = frozenset("@%")
"""Without one of these no URL holds a password: an at sign stands behind it, plain or quoted."""

# Plain help: it is the same on a terminal and in a file, and needs none of rich's import time. Plain tracebacks: they
# show no values of variables, which may be secrets.
application = typer.Typer(
    name="apicas",
    cls=Commands,
    no_args_is_help=True,
    # What a shell asks; `apicas completion` says how. Every other start does without.
    add_completion="_APICAS_COMPLETE" in os.environ,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"apicas {apicas.__version__}")
        raise typer.Exit


@application.callback()
def _apicas(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Work a pool of tokens with pilots: push tokens, run pilots, see what became of them."""
    del version


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run one command; see apicas.cli.main."""
    _open_closed_streams()
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.INCOMPLETE
    _leave_stubborn_threads(code)
    return code


def _open_closed_streams() -> None:
    """Put /dev/null in the place of standard streams that are closed, as with `>&-` and in some daemons.

    Else the first file or socket that is opened takes the place, and what is printed goes there.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            # The processes of commands, too, are to find it open.
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _invoke(arguments: Sequence[str] | None) -> int:
    try:
        _check(sys.argv[1:] if arguments is None else arguments)
        result = application(arguments, prog_name="apicas", standalone_mode=False)
    except typer.TyperException as error:
        return _tell_usage(error)
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a bug is shown with its traceback
        known = user_error(error)
        if known is None:
            _show_bug(error)
            return ExitCode.INCOMPLETE
        tell(known)
        return exit_code_of(known)
    return result if isinstance(result, int) else ExitCode.OK


def _check(arguments: Sequence[str]) -> None:
    """Refuse passwords in our own arguments; a command after `--` is the user's."""
    own = list(arguments)
    own = own[: own.index("--")] if "--" in own else own
    if any(_IN_A_URL.intersection(argument) for argument in own):
        from apicas.configuration import check_arguments

        check_arguments(own)


def _show_bug(error: Exception) -> None:
    """Write a traceback; its text may quote a token, so its lines are written like all others."""
    import traceback

    for line in "".join(traceback.format_exception(error)).splitlines():
        typer.echo(one_line(line), err=True)


def _tell_usage(error: typer.TyperException) -> ExitCode:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # the help, where no command was given; typer exports no such name
        typer.echo(message, err=True)
        return ExitCode.REFUSED
    is_state = getattr(error, "option_name", None) in _STATE_OPTIONS
    if is_state and context is not None and context.info_name in _TAKES_VIEWS:
        message = f"{message.partition(' (')[0]}: a state is a word of its own, as in `{context.command_path} error`"
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    tell(f"{message.removesuffix('.')}{hint}")
    return ExitCode.REFUSED


def _leave_stubborn_threads(code: int) -> None:
    """End the process although threads still run, as those of a plain `def` that was cut do.

    Such a thread cannot be stopped. It would hold up the end, and go on with a token that was handed back.
    """
    others = [thread for thread in threading.enumerate() if not thread.daemon]
    if len(others) > 1 and threading.current_thread() is threading.main_thread():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
