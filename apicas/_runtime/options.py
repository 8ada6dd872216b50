"""How a pilot is told to run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Final, TypeAlias

from apicas._documents import shown
from apicas._runtime.choices import ExecutorChoice, check_executor
from apicas._runtime.keeping.keeper import OnLostContact
from apicas._runtime.reports import Report
from apicas.events import Observer
from apicas.exceptions import ConfigError

Amounts: TypeAlias = str | Mapping[str, Any]
"""How much of what: `{"cores": 2, "memory": "4G"}`, or the same in a text, `cores=2,memory=4G`."""

END_MARGIN: Final = 10.0
"""Seconds that a pilot needs at most for handing back and leaving, once the grace period is over."""
_POSITIVE: Final = frozenset({"workers", "max_tokens", "max_token_memory"})
_SECONDS: Final = frozenset({"max_token_time", "max_total_time"})
_NUMBERS: Final = (*_POSITIVE, *_SECONDS, "max_scrub", "retry_delay", "grace", "claim_ahead", "end_margin")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a pilot runs.

    Args:
        workers: tokens worked at once; None for the number of cores that this process may use. Not with `resources`.
        resources: what there is for tokens that ask for it: "auto" for what is found here, and what is given instead of
            that, or beside it: {"cores": 8, "memory": "16G", "license": 4}. None to ask no token what it needs.
        request: what a token asks that does not say: {"cores": 2, "memory": "4G", "time": "30m"}; one core by default.
        request_fields: the fields in which tokens say it, where these have other names than what they ask:
            {"cores": "ncpus", "time": "walltime", "kind": "input.band"}. Tokens of one kind are taken to last alike.
        pin: whether tokens are kept to their cores; None for where no other job is to be expected on these.
        walltime: seconds from now on until the batch job ends, or as Slurm writes it; "UNLIMITED" for no end; None to
            find out.
        end_margin: seconds before that end at which the pilot drains; None for the grace period and END_MARGIN.
        max_token_time: seconds for one token; what takes longer is a failure.
        max_token_memory: bytes of memory that the commands of one token, or its worker process, may take together; what
            takes more is ended, and a failure.
        max_total_time: seconds after which nothing is claimed any more; what runs is finished.
        max_tokens: tokens worked before the pilot ends.
        max_scrub: how many times a failed token is tried again; over that it goes to error. None for the iterator's,
            which is 0 unless it was given one.
        retry_delay: seconds before a token that failed is tried again, doubling with each failure, with jitter; 0 for
            none. None for the iterator's, which is 1 s unless it was given one.
        stop_function: asked after each token; the pilot ends when it says True. Plain or async.
        stop_arguments: what it is called with.
        grace: seconds that running tokens get to finish after a drain was asked for.
        claim_ahead: most tokens held beyond those being worked; None for the default.
        on_progress: called a few times a second with a Report so far.
        handle_signals: drain on SIGTERM, SIGINT and SIGUSR1; only in the main thread, and only over default handlers.
        executor: "auto" for a process of its own for each token under which a pilot vanished; "process" for one for
            every token, as work needs it that may take its process down, or holds the interpreter for long; a function
            of the token that says one of them. None for the actor's, which is "auto" unless it says otherwise.
        on_lost_contact: "stop" to stop the work on a token when none of its beats has arrived for a whole lease;
            "continue" to go on. None for the iterator's, which goes on unless it was told otherwise.
        logs: a directory for what commands and worker processes print; None to attach it to their tokens.
        observers: called with every event, see apicas.events; on the loop, so they have to be quick.
        events: a file to which each event is appended, as a line of JSON; or a directory, for a file per pilot.
    """

    workers: int | None = None
    resources: Amounts | None = None
    request: Amounts | None = None
    request_fields: str | Mapping[str, str] | None = None
    pin: bool | None = None
    walltime: float | str | None = None
    end_margin: float | None = None
    max_token_time: float | None = None
    max_token_memory: int | None = None
    max_total_time: float | None = None
    max_tokens: int | None = None
    max_scrub: int | None = None
    retry_delay: float | None = None
    stop_function: Callable[..., Any] | None = None
    stop_arguments: Mapping[str, Any] = field(default_factory=dict)
    grace: float = 20.0
    claim_ahead: int | None = None
    on_progress: Callable[[Report], object] | None = None
    handle_signals: bool = False
    executor: ExecutorChoice | None = None
    on_lost_contact: OnLostContact | None = None
    logs: str | os.PathLike[str] | None = None
    observers: Sequence[Observer] = ()
    events: str | os.PathLike[str] | None = None

    @property
    def margin(self) -> float:
        """Seconds before the end of the batch job at which the pilot drains."""
        return self.grace + END_MARGIN if self.end_margin is None else self.end_margin

    def __post_init__(self) -> None:
        if self.executor is not None and not callable(self.executor):
            check_executor(self.executor)
        if self.workers is not None and self.resources is not None:
            raise ConfigError("workers and resources both say how many tokens are worked at once: give one of them")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None:
                _check_number(name, value)


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, Real):
        raise ConfigError(f"{name} is {shown(value)}; it is a number")
    number = float(value)
    if name in _POSITIVE and number < 1:
        raise ConfigError(f"{name} is {value}; it is at least 1")
    if name in _SECONDS and not number > 0:
        raise ConfigError(f"{name} is {number:g} s; it is more than 0")
    if number < 0:
        raise ConfigError(f"{name} is {number:g}; it is not negative")
