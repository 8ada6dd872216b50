"""`apicas doctor`: whether everything is as it should be, and what to do where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from apicas.cli.parameters import OutboxOption, PoolOption
from apicas.cli.terminal import one_line, painted, results, say_json, tell

if TYPE_CHECKING:
    from apicas.cli.exits import ExitCode
    from apicas.cli.findings import Finding, Findings
    from apicas.configuration import Configuration

EPILOG = """\b
It looks at the configuration, the server and its version, the login, the clock, your rights, the database, its views,
how far their index is behind, split tokens, tokens in no view, locks that nobody refreshes, and results in the outbox;
for a pool in a file at the file system. It changes nothing. Each line begins with `ok`, `do`, or `-` for what could not
be looked at.

\b
Exit codes: 0 all is well; 1 there is something to do; 2 the pool cannot be used as it is configured (wrong password, no
database, no permission); 3 the server does not answer.

\b
Examples:
  apicas doctor
  apicas doctor --pool https://me@couch.example:6984/survey
  apicas doctor --json | jq -r 'select(.status == "do").advice'
"""

_MARKS: Final = {"ok": "ok", "do": "do", "skipped": "-"}
_COLOURS: Final = {"ok": "green", "do": "red", "skipped": ""}


def doctor(
    *,
    pool: PoolOption = None,
    outbox: OutboxOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object for each line.")] = False,
) -> None:
    """Look whether everything is as it should be, and say what to do where it is not."""
    import asyncio

    code = asyncio.run(_examine(pool, outbox, as_json=as_json))
    if code:
        raise typer.Exit(code)


async def _examine(pool: str | None, outbox: str | None, *, as_json: bool) -> ExitCode:
    """Look at everything, line by line, and answer with the worst that was found."""
    from apicas.cli.exits import ExitCode

    worst, number = ExitCode.OK, 0
    async for finding in _findings(pool, outbox):
        _show(finding, as_json=as_json)
        worst = max(worst, finding.code)
        number += finding.status == "do"
    if number and not as_json:
        tell(f"{number} thing{'' if number == 1 else 's'} to do")
    return worst


async def _findings(pool: str | None, outbox: str | None) -> Findings:
    from apicas.cli.examining import examine
    from apicas.cli.exits import exit_code_of
    from apicas.cli.findings import fine, wrong
    from apicas.configuration import configure
    from apicas.exceptions import ApicasError

    try:
        configuration = configure(pool)
    except ApicasError as error:
        advice = "put that right; `apicas config path --all` lists the files"
        yield wrong("configuration", str(error), advice, code=exit_code_of(error))
        return
    try:
        configuration.connect(create=False)  # not opened: only to see whether the address is one
    except ApicasError as error:
        advice = f"put the address right: it is from {configuration.source}"
        yield wrong("configuration", str(error), advice, code=exit_code_of(error))
        return
    yield fine("configuration", _described(configuration))
    for note in configuration.notes:
        yield wrong("configuration", note, "put that right, or say the pool and the password in another place")
    async for finding in examine(configuration, outbox):
        yield finding


def _described(configuration: Configuration) -> str:
    who = "" if configuration.username is None else f", as {configuration.username}"
    origin = configuration.origins.get("password")
    word = "" if origin is None or not configuration.is_remote else f", with the password of {origin}"
    return f"{configuration.pool} from {configuration.source}{who}{word}"


def _show(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        from apicas._documents import encode

        fields = {"check": finding.check, "status": finding.status, "text": finding.text, "advice": finding.advice}
        say_json(encode(fields))
        return
    with results():
        line = one_line(f"{_MARKS[finding.status]:3} {finding.check}: {finding.text}")
        typer.echo(painted(line, _COLOURS[finding.status]))
        if finding.advice:
            typer.echo(one_line(f"    -> {finding.advice}"))
