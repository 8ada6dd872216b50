"""The work of `apicas map`: lines become tokens of a pool of their own, and a pilot works them to the end."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import re
import secrets
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from apicas._documents import Document, encode
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.options import RunOptions
from apicas.cli.exits import ExitCode
from apicas.cli.lines import GoodLine, Reading
from apicas.cli.map_output import MapOutput, shows_results
from apicas.cli.opening import configured, opened
from apicas.cli.pushing import Source, batches, inputs
from apicas.cli.running import Plan, exit_code_of, worked
from apicas.cli.selection import PAGE, Selection
from apicas.cli.terminal import one_line, plural, tell
from apicas.clients.base import PoolClient
from apicas.exceptions import ApicasError, ConfigError, InvalidTokenError
from apicas.modifiers import BasicTokenModifier
from apicas.tokens import TokenState

PLACE: Final = Path(".apicas")
"""Where the pools are, from the working directory on."""
MAX_FAILED_SHOWN: Final = 10
"""Failed lines that are listed at the end."""
_NAMED: Final = 5
"""Fields that are named to who took a table for lines."""
STDIN: Final = "-"
_PLACEHOLDER: Final = re.compile(r"(?<!\{)\{[^{}]+\}(?!\})")
_EMPTY: Final = re.compile(r"(?<!\{)\{\}(?!\})")
_ODD: Final = re.compile(r"[^\w.-]+")


def with_field(text: str) -> str:
    """A text with `{}` written as `{input}`."""
    return _EMPTY.sub("{input}", text)


def with_input(command: Sequence[str]) -> list[str]:
    """A command with `{}` written as `{input}`; without any placeholder the input becomes its last argument."""
    written = [with_field(argument) for argument in command]
    return written if any(map(_PLACEHOLDER.search, written)) else [*written, "{input}"]


@dataclass(frozen=True, slots=True)
class State:
    """The file that remembers what is done.

    Args:
        path: of the pool.
    """

    path: Path

    @staticmethod
    def of(given: str | None, inputs: str, command: Sequence[str], *, shell: bool) -> State:
        """The user's, or the one for these inputs and this command in the working directory."""
        if given is not None:
            return State(Path(given))
        source = STDIN if inputs == STDIN else str(Path(inputs).resolve())
        told = encode([source, list(command), shell])
        stem = "stdin" if inputs == STDIN else _ODD.sub("_", Path(inputs).stem)[:40] or "inputs"
        return State(PLACE / f"{stem}-{hashlib.blake2b(told, digest_size=4).hexdigest()}.db")

    @property
    def address(self) -> str:
        """Of the pool."""
        return f"sqlite:///{self.path}"

    def make_room(self) -> None:
        """Make the directory.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path.parent}: {error.strerror}; --state FILE names another place") from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from using it, as long as this process lives.

        Raises:
            ConfigError: somebody else does.
        """
        with open(f"{self.path}.lock", "ab") as file:  # noqa: PTH123 - a name with something behind it
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"another apicas map is at work with {self.path}: {error.strerror}") from None
            yield

    def remove(self) -> None:
        """Forget all of it.

        Raises:
            ConfigError: it cannot be removed.
        """
        for suffix in ("", "-wal", "-shm"):
            try:
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            except OSError as error:
                raise ConfigError(f"{self.path}{suffix}: {error.strerror}") from error


@dataclass(slots=True, kw_only=True)
class Mapping:
    """One call of `apicas map`.

    Args:
        inputs: the name of the file, `-` for standard input.
        reading: how its lines are read.
        runner: runs the command for a token.
        options: of the pilot.
        state: where it is remembered.
        keep_order: whether the output comes in the order of the lines.
    """

    inputs: str
    reading: Reading
    runner: CommandRunner
    options: RunOptions
    state: State
    keep_order: bool
    _lines: dict[str, int] = field(default_factory=dict)
    """The numbers of the lines by their token's id."""
    _call: str = field(default_factory=lambda: secrets.token_hex(3))

    def execute(self, *, resume: bool, again: bool) -> ExitCode:
        """Do it, from the lines to the last result.

        Raises:
            ConfigError: there is something of an earlier call, and it was not said what becomes of it; lines are bad.
        """
        with inputs([self.inputs], self.reading, skip_bad=False) as sources:
            self.state.make_room()
            with self.state.held():
                return self._execute(sources, resume=resume, again=again)

    def _execute(self, sources: Sequence[Source], *, resume: bool, again: bool) -> ExitCode:
        if again:
            self.state.remove()
        order = asyncio.run(self._prepare(sources, resume=resume))
        if not order:
            tell("nothing to do: all lines are done" if self._lines else "nothing to do: there are no lines")
            return ExitCode.OK
        output = MapOutput(order if self.keep_order else None)
        work = shows_results(self.runner, output, self._lines, self.options.max_scrub or 0)
        # The pool is nobody else's: no other pilot gives anything back.
        plan = Plan(work=work, options=self.options, views=["todo"], in_order=True)
        report = worked(configured(self.state.address), plan)
        output.flush()
        code = exit_code_of(report)
        undone = asyncio.run(self._say_failures())
        tell(f"{report}: {report.reason}")
        if undone:
            tell(f"the same with --resume goes on with what is not done; how it is: apicas status --pool {self._pool}")
        return ExitCode.INCOMPLETE if undone and code is ExitCode.OK else code

    @property
    def _pool(self) -> str:
        return one_line(self.state.address)

    async def _prepare(self, sources: Sequence[Source], *, resume: bool) -> list[int]:
        """Put into the pool what is not there; answers with the numbers of the lines that are to be done, in order."""
        async with opened(configured(self.state.address), create=True) as client:
            await client.setup()
            before = await client.counts()
            if any(before.values()) and not resume:
                there = ", ".join(f"{number:,} {state}" for state, number in before.items() if number)
                raise ConfigError(
                    f"an earlier run of this is in {self.state.path} ({there}): --resume goes on, --again begins anew"
                )
            await _put_back_failed(client)
            known, done = await _known(client)
            for source in sources:
                for batch in batches(_good(source)):
                    self._check_input(batch[0].content)
                    await self._put(client, batch, known)
            await self._warn_of_others(client)
        return sorted(number for identifier, number in self._lines.items() if identifier not in done)

    def _check_input(self, content: Document) -> None:
        """Refuse `{}` for a line that has fields instead, as a row of a table: it would be an empty object for all.

        Raises:
            ConfigError: it is such a line.
        """
        if "input" in content:
            return
        token = {**content, "_id": ""}
        try:
            self.runner.check(token)
        except InvalidTokenError:
            with suppress(InvalidTokenError):  # other fields are missing, too: the pilot says which
                self.runner.check({**token, "input": ""})
                names = ", ".join(f"{{{name}}}" for name in list(content)[:_NAMED])
                where = "standard input" if self.inputs == STDIN else self.inputs
                raise ConfigError(f"{where} has no {{}}, but fields: write {names}") from None

    async def _put(self, client: PoolClient, batch: Sequence[GoodLine], known: dict[str, deque[str]]) -> None:
        """Put lines into the pool that are not there.

        Args:
            client: of the pool.
            batch: the lines.
            known: the ids of tokens that are there, and were not found among the lines so far, by what they hold.
        """
        tokens = []
        for line in batch:
            digest = _digest(line)
            if there := known.get(digest):
                self._lines[there.popleft()] = line.number
                continue
            # Sorted as the lines are; and not as one of an earlier file, whose line of that number was the same.
            identifier = f"{line.number:09d}-{self._call}-{digest}"
            self._lines[identifier] = line.number
            tokens.append({**line.content, "_id": identifier})
        report = await client.upload(tokens)
        if report.rejected:
            reason = report.rejects[0].reason if report.rejects else "see the log"
            raise ApicasError(f"{plural(report.rejected, 'line')} cannot be stored: {reason}")

    async def _warn_of_others(self, client: PoolClient) -> None:
        others = sum((await client.counts()).values()) - len(self._lines)
        if others > 0:
            gone = plural(others, "line")
            tell(f"of the earlier run, no longer in {self.inputs}: {gone}; what is not done is done, too")

    async def _say_failures(self) -> int:
        """List what has failed; how much that is, with what was not worked at all."""
        async with opened(configured(self.state.address)) as client:
            counts = await client.counts()
            number = counts["error"]
            rows = await client.view("error", include_docs=True, limit=MAX_FAILED_SHOWN)
        for row in rows:
            tell(self._failure(row.document or {}))
        if number > len(rows):
            tell(f"and {plural(number - len(rows), 'line')} more failed")
        return number + counts["todo"] + counts["locked"]

    def _failure(self, document: Document) -> str:
        number = self._lines.get(str(document.get("_id")))
        errors = document.get("error")
        last = errors[-1] if isinstance(errors, list) and errors else {}
        message = last.get("message") if isinstance(last, dict) else None
        where = f"line {number}" if number is not None else f"token {document.get('_id')}"
        return one_line(f"{where} failed: {message or 'see apicas logs'}")


def _digest(line: GoodLine) -> str:
    """What a line is known by: what it holds."""
    return hashlib.blake2b(encode(line.content), digest_size=8).hexdigest()


async def _known(client: PoolClient) -> tuple[dict[str, deque[str]], set[str]]:
    """The ids of the tokens that are there, by what their lines held; and those that are done."""
    known: defaultdict[str, deque[str]] = defaultdict(deque)
    done: set[str] = set()
    for state in ("done", "locked", "todo"):  # of lines that are the same those that are done come first
        async for page in Selection(views=[state]).pages(client):
            for document in page:
                identifier = document["_id"]
                known[identifier.rpartition("-")[2]].append(identifier)
                if state == "done":
                    done.add(identifier)
    return known, done


def _good(source: Source) -> Iterator[GoodLine]:
    """The lines; they were checked."""
    for line in source.lines():
        if not isinstance(line, GoodLine):
            raise ConfigError(f"{source.name}:{line.number}: {line.reason}")
        yield line


async def _put_back_failed(client: PoolClient) -> None:
    """Put what has failed back to todo, as if it were new."""
    modifier = BasicTokenModifier()
    while True:
        rows: Sequence[Any] = await client.view(TokenState.ERROR, include_docs=True, limit=PAGE)
        if not rows:
            return
        found = [dict(row.document) for row in rows if row.document is not None]
        results = await client.save([modifier.reset(document, client.time()) for document in found])
        if not any(result.written for result in results):
            raise ApicasError("what has failed cannot be put back: somebody else changes it all the time")
