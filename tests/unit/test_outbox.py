"""The outbox on a real disk: whole files or none, for nobody else, and nothing that lies there is fatal."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._documents import decode, encode
from apicas._runtime.outbox import disk as outbox_module
from apicas._runtime.outbox.disk import Bounds, DiskOutbox, directory_name, outbox_for, writes_ahead
from apicas._runtime.outbox.entries import Entry, decode_entry, is_name
from apicas.exceptions import ConfigError

POOL = "http://localhost:5984/pool"


def make_entry(token: str = "t", **changes: Any) -> Entry:
    stored = {"_id": token, "_rev": "2-a", "lock": 7, "apicas": {"claim": "c", "pid": 1}}
    entry = Entry(
        pool=POOL,
        token=token,
        claim="c",
        stored=stored,
        base={**stored, "_rev": "1-a"},
        outcome={**stored, "output": 42},
        ending="done",
        time=1_800_000_000.5,
        hostname="node",
        pilot="one",
        process="b007.1.2",
    )
    return replace(entry, **changes)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files(directory: str | Path) -> list[Path]:
    return list(Path(directory).iterdir())


@pytest.fixture
def box(tmp_path: Path) -> DiskOutbox:
    return DiskOutbox(tmp_path / "outbox", POOL, Bounds(files=5, size=100_000))


async def test_what_is_put_can_be_read_by_others_of_this_user(box: DiskOutbox, tmp_path: Path) -> None:
    entry = make_entry()
    await box.put([entry])
    other = DiskOutbox(tmp_path / "outbox", POOL)
    assert await other.names() == [entry.name]
    assert await other.read([entry.name]) == [entry]
    directory = Path(box.place)
    assert mode(directory) == 0o700
    assert [mode(path) for path in files(directory)] == [0o600]
    await other.remove([entry.name])
    await box.remove([entry.name])
    assert await box.read([entry.name]) == []
    assert files(directory) == []


async def test_an_outbox_that_nobody_needed_leaves_no_trace(box: DiskOutbox, tmp_path: Path) -> None:
    assert (await box.names(), await box.lost(), await box.discard_lost()) == ([], [], 0)
    await box.remove(["x.json"])
    assert files(tmp_path) == []


async def test_putting_twice_is_putting_once(box: DiskOutbox) -> None:
    await box.put([make_entry()])
    await box.put([make_entry(ending="failed")])
    (name,) = await box.names()
    assert [entry.ending for entry in await box.read([name])] == ["failed"]


async def test_a_pilot_can_leave_its_own_out(box: DiskOutbox) -> None:
    mine, other = make_entry("a"), make_entry("b", pilot="two")
    await box.put([mine, other])
    assert await box.names(not_of="one") == [other.name]


async def test_what_is_lost_moves_aside(box: DiskOutbox) -> None:
    entry = make_entry("a token/with #odd..name")
    await box.put([entry])
    lost = replace(entry, reason="somebody else has taken it")
    (place,) = await box.set_aside([lost])
    assert await box.names() == []
    assert await box.lost() == [(place, lost)]
    path = Path(place)
    assert path.parent == Path(box.place) / "lost"
    assert path.name.startswith("a_token_with_odd..name-")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert await box.set_aside([lost]) == [place], "once more is no second copy"
    assert await box.discard_lost() == 1
    assert await box.lost() == []


async def test_of_what_is_lost_the_oldest_goes_first(box: DiskOutbox, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(7):
        (place,) = await box.set_aside([make_entry(f"t{number}", reason="gone")])
        os.utime(place, (number, number))
    assert [entry.token for _, entry in await box.lost()] == ["t2", "t3", "t4", "t5", "t6"]
    await box.set_aside([make_entry("large", reason="gone", outcome={"output": "x" * 200_000})])
    assert [entry.token for _, entry in await box.lost()] == ["large"], "the newest stays, however large"
    assert "oldest results" in caplog.text


DAMAGED: Mapping[str, bytes] = {
    "empty": b"",
    "truncated": make_entry().encode()[:100],
    "no JSON": b"\xff\x00",
    "foreign": b'{"name": "something else"}',
    "a list": b"[]",
    "newer": make_entry().encode().replace(b'"format":1', b'"format":2'),
    "no claim": encode({**decode(make_entry().encode()), "claim": None}),
    "another token": encode({**decode(make_entry().encode()), "token": "other"}),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGED)
async def test_what_cannot_be_read_is_left_and_said_once(
    box: DiskOutbox, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    good, bad = make_entry("good"), make_entry("bad")
    await box.put([good, bad])
    path = Path(box.place) / bad.name
    path.write_bytes(DAMAGED[damage])
    for _ in range(2):
        assert await box.read(await box.names()) == [good]
    assert path.read_bytes() == DAMAGED[damage]
    (line,) = caplog.messages
    assert str(path) in line
    assert "\n" not in line


async def test_files_that_others_can_read_or_that_lead_elsewhere_are_left(
    box: DiskOutbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_one, link, pipe = make_entry("a"), make_entry("b"), make_entry("c")
    await box.put([open_one])
    directory = Path(box.place)
    (directory / open_one.name).chmod(0o644)
    target = tmp_path / "elsewhere"
    target.write_bytes(link.encode())
    (directory / link.name).symlink_to(target)
    os.mkfifo(directory / pipe.name, 0o600)
    assert await box.read(await box.names()) == []
    assert len(caplog.messages) == 3


async def test_other_names_are_nobodys_business(box: DiskOutbox) -> None:
    await box.put([make_entry()])
    for name in ("README", "x.json", ".hidden", f".{make_entry().name}.1234.tmp"):
        (Path(box.place) / name).write_text("mine")
    assert await box.names() == [make_entry().name]


async def test_what_a_killed_process_had_half_written_goes_after_a_day(box: DiskOutbox) -> None:
    await box.put([make_entry()])
    old, new = (Path(box.place) / f".{make_entry().name}.{age}.tmp" for age in ("old", "new"))
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (1, 1))
    await box.names()
    assert (old.exists(), new.exists()) == (False, True)


async def test_an_unsafe_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / directory_name(POOL)
    directory.mkdir(mode=0o755)
    box = DiskOutbox(tmp_path, POOL)
    for call in (box.check(), box.put([make_entry()]), box.names()):
        with pytest.raises(ConfigError, match="chmod 700"):
            await call
    assert files(directory) == []


async def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        await DiskOutbox(tmp_path / "file", POOL).check()


def test_a_pool_has_one_directory_whoever_asks_from_wherever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert directory_name("sqlite:///pool.db") == directory_name(f"sqlite:///{tmp_path}/pool.db")
    assert directory_name("http://me@host:5984/a") == directory_name("http://you@host:5984/a")
    assert len({directory_name(f"http://host:5984/{name}") for name in ("a", "b", "a%2Fb", "../a")}) == 4


def test_a_pool_in_memory_has_no_outbox_unless_it_is_given_one(tmp_path: Path) -> None:
    assert outbox_for(None, "memory:") is None
    assert outbox_for(False, POOL) is None
    given_one = outbox_for(tmp_path, "memory:")
    assert given_one is not None
    assert given_one.place.startswith(str(tmp_path))


def test_the_default_is_in_the_state_directory(state_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = outbox_for(None, POOL)
    assert default is not None
    assert default.place == str(state_home / "apicas" / "outbox" / directory_name(POOL))
    monkeypatch.setenv("APICAS_OUTBOX", "/elsewhere")
    chosen = outbox_for(None, POOL)
    assert chosen is not None
    assert chosen.place.startswith("/elsewhere/")


def test_only_a_commit_on_this_machine_is_as_safe_as_the_outbox() -> None:
    assert not writes_ahead("sqlite:///pool.db")
    assert writes_ahead(POOL)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(ANYTHING)
def test_anything_can_be_kept(value: Any) -> None:
    """What is no JSON as text; the rest as it is."""
    entry = make_entry(outcome={"_id": "t", "output": value})
    kept = decode_entry(entry.encode())
    assert (kept.token, kept.claim, kept.stored) == (entry.token, entry.claim, entry.stored)


def test_what_json_has_no_end_or_word_for_is_kept_as_text() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"deeper": deep}
    odd = {"integer": 10**5000, "object": object(), "deep": deep, "nan": float("nan"), ("a", 1): {1}}
    kept = decode_entry(make_entry(outcome=odd).encode()).outcome
    assert kept["integer"].startswith("0x")
    assert kept["object"].startswith("<object object")
    assert kept["nan"] == "nan"
    assert kept["('a', 1)"] == [1]


@given(token=st.text(), claim=st.text(), reason=st.text())
def test_no_name_leaves_its_directory(token: str, claim: str, reason: str) -> None:
    entry = make_entry(token, claim=claim, reason=reason)
    assert is_name(entry.name)
    for name in (entry.name, entry.aside_name):
        assert Path(name).name == name
        assert name.isascii()
        assert name.isprintable()
        assert not name.startswith((".", "-"))
        assert len(name) < 100


async def test_a_disk_that_hangs_has_one_thread_and_holds_up_no_end(
    box: DiskOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call left a thread of the pool behind, and the process did not end before all of them did."""
    goes_on = threading.Event()
    with monkeypatch.context() as hanging:
        hanging.setattr(outbox_module, "private_directory", lambda _path: goes_on.wait())
        hanging.setattr(outbox_module, "PATIENCE", 0.01)
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await box.check()
        assert [each.daemon for each in threading.enumerate() if each.name == "apicas-outbox"] == [True]
        goes_on.set()
    await box.check()


async def test_a_system_without_room_for_a_thread_is_said_and_costs_no_turn(
    box: DiskOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="no room for a thread"):
            await box.check()
    await box.check()
