"""Work on typed tokens, in a module from which processes can import it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pydantic

import apicas
from apicas.tokens import Token

if TYPE_CHECKING:
    from decimal import Decimal


class Beam(msgspec.Struct):
    angle: float
    bands: list[str] = []


class Field(msgspec.Struct, forbid_unknown_fields=True):
    """Input as msgspec reads it."""

    size: int
    beam: Beam | None = None


class Band(pydantic.BaseModel):
    low: float
    high: float = pydantic.Field(gt=0)


class Survey(pydantic.BaseModel):
    """Input as pydantic reads it."""

    name: str
    bands: list[Band] = []


@dataclass
class Plain:
    size: int


def where() -> dict[str, Any]:
    return {"process": os.getpid(), "main": threading.current_thread() is threading.main_thread()}


async def on_the_loop(token: Token[Field]) -> Any:
    return {**where(), "size": token.input.size, "type": type(token.input).__name__}


def in_a_thread(token: Token[Field]) -> Any:
    return {**where(), "size": token.input.size, "type": type(token.input).__name__}


async def with_pydantic(token: Token[Survey]) -> str:
    return f"{token.input.name}: {len(token.input.bands)} bands"


async def many_models(token: Token[list[Band]]) -> list[float]:
    return [band.low for band in token.input]


async def with_a_dataclass(token: Token[Plain]) -> int:
    return token.input.size


async def with_a_number(token: Token[int]) -> int:
    return token.input + 1


async def _with_more(factor: int, token: Token[Plain]) -> int:
    return factor * token.input.size


twice = partial(_with_more, 2)


class Called:
    async def __call__(self, token: Token[Plain]) -> int:
        return token.input.size


class Actor(apicas.RunActor):
    """Its prepare_run sees what is checked already."""

    async def prepare_run(self, token: Token[Field]) -> None:
        token["prepared"] = token.input.size

    async def process_token(self, token: Token[Field]) -> dict[str, Any]:
        return where()

    async def cleanup_run(self, token: Token) -> None:
        token["cleaned"] = True


async def for_type_checkers_only(token: Token[Decimal]) -> None: ...


async def impossible(token: Token[threading.Thread | Field]) -> None: ...


async def untyped(token: Token[Any]) -> Any:
    return token.input["size"]
