"""What is private stays so: directories and files that others can read, write or swap are refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from apicas._files import check_private_file, private_directory
from apicas.exceptions import ConfigError
from tests.security.owners import give_away


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_directory_is_private_with_all_its_new_parents(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = private_directory(tmp_path / "state" / "apicas" / "outbox")
    finally:
        os.umask(before)
    assert path == tmp_path / "state" / "apicas" / "outbox"
    assert [mode(each) for each in (path, path.parent, path.parent.parent)] == [0o700] * 3


def test_a_relative_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert private_directory(Path("outbox")) == tmp_path / "outbox"


def test_a_private_directory_is_taken_again(tmp_path: Path) -> None:
    assert private_directory(tmp_path / "box") == private_directory(tmp_path / "box")


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_directory_that_others_can_use_is_refused_and_left_as_it_is(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "the box"
    path.mkdir()
    path.chmod(0o700 | bits)
    with pytest.raises(ConfigError, match=rf"run `chmod 700 '{path}'`\Z"):
        private_directory(path)
    assert mode(path) == 0o700 | bits


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = private_directory(tmp_path / "box")
    give_away(path, monkeypatch)
    with pytest.raises(ConfigError, match="somebody else's"):
        private_directory(path)


def test_a_link_of_this_user_is_followed_and_its_end_is_checked(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir(mode=0o700)
    (tmp_path / "box").symlink_to(tmp_path / "scratch")
    assert private_directory(tmp_path / "box") == tmp_path / "box"
    (tmp_path / "scratch").chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        private_directory(tmp_path / "box")


def test_a_link_of_somebody_else_is_refused_though_it_leads_to_a_directory_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours").mkdir(mode=0o700)
    (tmp_path / "box").symlink_to(tmp_path / "ours")
    give_away(tmp_path / "box", monkeypatch)
    with pytest.raises(ConfigError, match="a link of somebody else's"):
        private_directory(tmp_path / "box")


@pytest.mark.parametrize("make", [lambda path: path.write_text(""), lambda path: path.symlink_to("nowhere")])
def test_what_is_no_directory_is_refused(tmp_path: Path, make: object) -> None:
    make(tmp_path / "box")  # type: ignore[operator]
    for path in (tmp_path / "box", tmp_path / "box" / "deeper"):
        with pytest.raises(ConfigError, match="cannot be used"):
            private_directory(path)


def test_a_path_with_a_nul_is_refused_and_control_characters_are_not_shown(tmp_path: Path) -> None:
    for name in ("a\0b", "\x1b]52;c;x\x07"):
        (tmp_path / "\x1b]52;c;x\x07").touch()
        with pytest.raises(ConfigError) as caught:
            private_directory(tmp_path / name)
        assert str(caught.value).isprintable()


def test_a_private_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    check_private_file(path)
    (tmp_path / "link").symlink_to(path)
    check_private_file(tmp_path / "link")


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "the file"
    path.touch()
    path.chmod(0o600 | bits)
    with pytest.raises(ConfigError, match=rf"others may read it: run `chmod 600 '{path}'`\Z"):
        check_private_file(path)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    give_away(path, monkeypatch)
    with pytest.raises(ConfigError, match="somebody else's"):
        check_private_file(path)


def test_a_link_of_somebody_else_to_a_file_of_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours").touch(mode=0o600)
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    give_away(tmp_path / "link", monkeypatch)
    with pytest.raises(ConfigError, match="a link of somebody else's"):
        check_private_file(tmp_path / "link")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, words in ((tmp_path / "pipe", "no regular file"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ConfigError, match=words):
            check_private_file(path)
