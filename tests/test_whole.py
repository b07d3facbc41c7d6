"""Files that are there whole or not at all: names, links, leftovers, permissions, file systems without hard links, full disks."""

import errno
import os
import stat

import pytest

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures import atomic as module
from flashdiff_cli.pictures.atomic import TEMPORARY, whole

if os.name == "nt":
    pytest.skip("POSIX links and permissions", allow_module_level=True)


def write(path, data=b"new", **more):
    with whole(path, **more) as file:
        file.write(data)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("way", ["rename", "link", "neither"])
def test_a_file_in_the_way_is_replaced_only_if_it_may_be(tmp_path, monkeypatch, way):
    """In one step where the system has one for it, else by a hard link, else by an empty file."""
    if way != "rename":
        monkeypatch.setattr("flashdiff_cli.pictures.atomic._renamer", lambda: None)
    if way == "neither":
        monkeypatch.setattr(os, "link", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    path = tmp_path / "a"
    write(path, b"old", replace=False)
    with pytest.raises(FlashdiffError, match="a: exists already"):
        write(path, replace=False)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a"] and path.stat().st_nlink == 1
    write(path)
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_a_link_of_that_name_is_never_followed(tmp_path, target):
    (tmp_path / "victim").write_bytes(b"precious")
    path = tmp_path / "a"
    path.symlink_to(target)
    with pytest.raises(FlashdiffError, match="exists already"):
        write(path, replace=False)
    write(path)
    assert not path.is_symlink() and path.read_bytes() == b"new"
    assert (tmp_path / "victim").read_bytes() == b"precious" and names(tmp_path) == ["a", "victim"]


def test_what_is_no_ordinary_file_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FlashdiffError, match=f"{name}: cannot be written .*folder, pipe or device"):
            write(tmp_path / name)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FlashdiffError, match="a: cannot be written .*[Nn]ot a directory"):
        write(tmp_path / "file" / "a")
    assert names(tmp_path) == ["file", "folder", "pipe"]


def test_an_error_while_it_is_written_leaves_nothing(tmp_path):
    for error, said in ((OSError(errno.ENOSPC, "No space left on device"), "No space left"), (ValueError("no such mode"), "another ending")):
        with pytest.raises(FlashdiffError, match=said), whole(tmp_path / "a") as file:
            file.write(b"half")
            raise error
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "a"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_temporary_names_cannot_be_foreseen_and_are_nobody_else_s(tmp_path):
    seen = set()
    for _ in range(3):
        with whole(tmp_path / "a") as file:
            (name,) = [n for n in names(tmp_path) if n != "a"]
            assert TEMPORARY.fullmatch(name) and mode(tmp_path / name) == 0o600
            seen.add(name)
            file.write(b"x")
    assert len(seen) == 3


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path):
    """A temporary file that another process holds, a link and a pipe of such a name, and a user's file stay."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    dead, link, pipe = (tmp_path / f".flashdiff-{digit * 16}.part" for digit in "123")
    dead.write_bytes(b"half")
    link.symlink_to(victim)
    os.mkfifo(pipe)
    (tmp_path / ".flashdiff-notes.part").write_bytes(b"mine")
    with whole(tmp_path / "b"):
        (held,) = set(names(tmp_path)) - {"victim", link.name, pipe.name, ".flashdiff-notes.part"}
        write(tmp_path / "a")
        assert held in names(tmp_path)
    assert not dead.exists() and victim.read_bytes() == b"precious"
    assert names(tmp_path) == sorted([link.name, pipe.name, ".flashdiff-notes.part", "a", "b", "victim"])


def test_permissions(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_umask", lambda: 0o022)
    private, family = tmp_path / "private", tmp_path / "family"
    for path, bits in ((private, 0o600), (family, 0o640)):
        path.write_bytes(b"")
        path.chmod(bits)
    for like, expected in (([], 0o644), ([private], 0o600), ([family], 0o640), ([family, private], 0o600), ([tmp_path / "gone"], 0o644)):
        write(path := tmp_path / f"out{expected:o}{len(like)}", like=like)
        assert mode(path) == expected
    # One that was made private stays so when it is made again.
    write(private)
    assert mode(private) == 0o600
    # In place, all bits stay as they are.
    family.chmod(0o666)
    write(family, keep=True)
    assert mode(family) == 0o666 and family.read_bytes() == b"new"
    monkeypatch.setattr(os, "fchown", lambda *a: (_ for _ in ()).throw(PermissionError()))
    own = os.stat(tmp_path)
    assert module._narrowed(0o640, own, [own]) == 0o640
    other = os.stat_result((0o100640, 0, 0, 1, own.st_uid, own.st_gid + 1, 0, 0, 0, 0))
    assert module._narrowed(0o640, own, [other]) == 0o600 and module._narrowed(0o664, own, [other]) == 0o644


def test_the_answer_at_the_last_moment_stands(tmp_path):
    path, seen = tmp_path / "a", []
    path.write_bytes(b"old")

    def ready(done):
        seen.append((done.size, path.read_bytes()))
        return answer

    answer = False
    with pytest.raises(FlashdiffError, match="exists already"):
        write(path, ready=ready)
    answer = True
    write(path, ready=ready)
    assert seen == [(3, b"old")] * 2 and path.read_bytes() == b"new"

    def refuse(done):
        raise FlashdiffError("a: no")

    with pytest.raises(FlashdiffError, match="a: no"):
        write(path, b"newer", ready=refuse)
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a"]
