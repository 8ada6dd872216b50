"""The command after `--`, and the options that go with it: in `apicas run` and `apicas map`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, cast

import typer

from apicas.cli.commands import Command
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas._runtime.commands.command import CommandRunner
    from apicas._runtime.commands.files import FileOptions

ShellOption: TypeAlias = Annotated[bool, typer.Option("--shell", help="The command is a line for the shell.")]
WorkdirOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|auto",
        help="Run each attempt of a command in a directory of its own below DIR; auto: the node's scratch directory.",
        show_default="where the pilot is",
    ),
]
KeepOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="never|failed|always",
        help="Which of these directories are kept, as DIR/ID/ATTEMPT.",
        show_default="never",
    ),
]
InputsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="The token's attachments that are put there; repeatable.", show_default="all"),
]
OutputsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Files that the command makes there: attached to the token if it succeeds; repeatable.",
        show_default="those that the token names in `outputs`",
    ),
]
OutputsToOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Move them to DIR/ID instead, or to DIR/{field}.", show_default=False),
]

_COMMAND: Final = "apicas.command"


class CommandAfterDashes(Command):
    """Keeps what stands after `--` for itself: it is a command, also where it looks like an option of ours."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Split the arguments at the first `--`."""
        if "--" in args:
            place = args.index("--")
            ctx.meta[_COMMAND] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChoices:
    """What a user says of the files of a command; None where he says nothing."""

    workdir: str | None = None
    keep: str | None = None
    inputs: Sequence[str] | None = None
    outputs: Sequence[str] | None = None
    outputs_to: str | None = None

    @property
    def are_made(self) -> bool:
        """Whether anything is said: then there is a work directory."""
        return any((self.workdir, self.keep, self.inputs, self.outputs, self.outputs_to))

    def options(self) -> FileOptions | None:
        """The options; None where the command runs where the pilot is."""
        from apicas._runtime.commands.files import FileOptions
        from apicas._runtime.commands.workdirs import SCRATCH

        if not self.are_made:
            return None
        return FileOptions(
            workdir=self.workdir or SCRATCH,
            keep=cast("Any", self.keep or "never"),
            inputs=self.inputs or ("*",),
            outputs=self.outputs or (),
            outputs_to=self.outputs_to,
        )


def command_after_dashes(ctx: typer.Context) -> list[str] | None:
    """The command that stands after `--`; None where there is none."""
    command: list[str] | None = ctx.meta.get(_COMMAND)
    return command


def command_runner(
    command: Sequence[str], *, shell: bool, files: FileChoices, capture: int | None = None
) -> CommandRunner:
    """What runs a command for each token.

    Args:
        command: the program and its arguments, or the words of a line.
        shell: whether it is a line for the shell.
        files: which files it gets and leaves.
        capture: bytes that are kept of what it prints; None for the default.

    Raises:
        ConfigError: there is none, or no such program, or it cannot be understood.
    """
    import shutil
    from dataclasses import replace

    from apicas._runtime.commands.command import CommandRunner
    from apicas._runtime.commands.options import CommandOptions

    if not command:
        raise ConfigError("there is no command after --")
    options = CommandOptions(shell=shell)
    if capture is not None:
        options = replace(options, capture=capture)
    if shell:
        return CommandRunner(" ".join(command), options, files.options())
    # Known to be wrong for every token: said once, before the first is claimed.
    if "{" not in command[0] and shutil.which(command[0]) is None:
        raise ConfigError(f"there is no program {command[0]!r}, or it may not be executed")
    return CommandRunner(list(command), options, files.options())
