"""Nothing of the user's is lost, replaced or made readable: names, links, kills, full disks, runs side by side, planted files.

The program runs with a restorer that takes no time (fake_program). FLASHDIFF_LONG=1 makes the counts those of the promise:
200 kills at random, 50 at each point of writing, 20 times 3 runs at once, 20 full disks.
"""

import csv
import json
import os
import random
import signal
import stat
import time
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("POSIX signals, links and permissions", allow_module_level=True)

from fake_program import Running

from flashdiff_cli.pictures.atomic import TEMPORARY
from flashdiff_cli.runs.entries import NAME

LONG = os.environ.get("FLASHDIFF_LONG") == "1"
KILLS, AIMED, AT_ONCE, FULL = (200, 50, 20, 20) if LONG else (12, 2, 2, 3)
POINTS = ("line", "torn", "name", "named")


@pytest.fixture
def here(tmp_path):
    """A folder with nothing in it, and `run`, which runs the program there; (exit code, stdout, stderr)."""
    tmp_path.joinpath("w").mkdir()
    return tmp_path / "w"


def run(here, *arguments, **more):
    return Running("restore", *arguments, cwd=here, **more).wait()


def pictures(folder, count=3, text="picture"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(f"{text} {number}".encode() * (number + 1))
    return folder


def restored(data, times=1):
    for _ in range(times):
        data = b"R(" + data + b")"
    return data


def files(folder):
    """Content by name of all below a folder but journals."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != NAME}


def leftovers(folder):
    return [p for p in folder.rglob(".flashdiff-*") if TEMPORARY.fullmatch(p.name)]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# Names


def test_two_sources_of_one_name_get_two_results_one_after_the_other(here):
    one, two = pictures(here / "card1"), pictures(here / "card2", text="other")
    assert run(here, one, "-o", "out")[0] == run(here, two, "-o", "out")[0] == 0
    found = files(here / "out")
    assert {found[f"{i}.png"] for i in range(3)} == {restored(data) for data in files(one).values()}
    assert {found[f"{i}-2.png"] for i in range(3)} == {restored(data) for data in files(two).values()}
    for cards in ((one, two), (two, one), (two,), (one,)):
        code, out, _ = run(here, *cards, "-o", "out", "--json")
        assert code == 0 and {json.loads(line)["status"] for line in out.splitlines()} == {"skipped"}
    assert run(here, two, "-o", "out", "--overwrite")[0] == 0 and files(here / "out") == found


def test_two_endings_of_one_name_beside_each_other(here):
    (here / "scan.001").write_bytes(b"first")
    (here / "scan.002").write_bytes(b"second")
    (here / "p.ppm").write_bytes(b"third")
    for name in ("scan.001", "scan.002", "p.ppm", "scan.002"):
        assert run(here, name)[0] == 0
    found = files(here)
    assert found["scan-restored.png"] == b"R(first)" and found["scan-restored-2.png"] == b"R(second)"
    assert found["p-restored.png"] == b"R(third)" and len(found) == 6


def test_one_named_file_is_not_replaced_by_another_source_s_result(here):
    (here / "a.png").write_bytes(b"a")
    (here / "b.png").write_bytes(b"b")
    assert run(here, "a.png", "-o", "r.png")[0] == 0
    code, _, err = run(here, "b.png", "-o", "r.png")
    assert code == 1 and "another picture" in err and (here / "r.png").read_bytes() == b"R(a)"
    assert run(here, "b.png", "-o", "r.png", "--overwrite")[0] == 0 and (here / "r.png").read_bytes() == b"R(b)"


def test_a_source_that_moved_is_known_by_its_content(here):
    pictures(here / "in")
    run(here, "in", "-o", "out")
    (here / "in").rename(here / "moved")
    code, out, _ = run(here, "moved", "-o", "out", "--json")
    assert code == 0 and {json.loads(line)["status"] for line in out.splitlines()} == {"skipped"} and len(files(here / "out")) == 3


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_retouched_result_of_the_same_size_is_the_user_s(here, keep_time):
    source = here / "a.png"
    source.write_bytes(b"a picture")
    run(here, "a.png")
    result = here / "a-restored.png"
    before = result.stat()
    result.write_bytes(result.read_bytes()[:-2] + b"!)")
    if keep_time:
        os.utime(result, ns=(before.st_atime_ns, before.st_mtime_ns))
    mine = result.read_bytes()
    for more in ((), ("--seed", "3")):
        code, _, err = run(here, "a.png", *more)
        assert code == 1 and "not flashdiff's" in err and result.read_bytes() == mine


def test_a_result_that_was_only_touched_is_done(here):
    (here / "a.png").write_bytes(b"a picture")
    run(here, "a.png")
    for name in ("a.png", "a-restored.png"):
        os.utime(here / name, (1, 1))
    assert json.loads(run(here, "a.png", "--json")[1])["status"] == "skipped"


def test_a_result_that_is_changed_while_the_next_is_made_stays(here):
    (here / "a.png").write_bytes(b"a")
    run(here, "a.png")
    code, _, err = run(here, "a.png", "--seed", "1", FAKE_EDIT=here / "a-restored.png")
    assert code == 1 and "not flashdiff's" in err and (here / "a-restored.png").read_bytes().startswith(b"edited")


def test_a_file_that_appears_while_the_picture_is_restored_stays(here):
    (here / "a.png").write_bytes(b"a")
    code, _, err = run(here, "a.png", FAKE_EDIT=here / "a-restored.png")
    assert code == 1 and "not flashdiff's" in err and (here / "a-restored.png").read_bytes().startswith(b"edited")
    assert not leftovers(here)


def test_tables_and_pages_replace_only_their_own(here):
    pictures(here / "in")
    pictures(here / "other", 1)
    options = ("--csv", "t.csv", "--report", "t.html")
    for _ in range(2):
        assert run(here, "in", "-o", "out", *options)[0] == 0
    with open(here / "t.csv", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["skipped"] * 3
    before = files(here)
    code, _, err = run(here, "other", "-o", "out2", *options)
    assert code == 1 and "t.csv" in err and files(here) == before
    (here / "t.csv").write_text("my notes")
    code, _, err = run(here, "in", "-o", "out", *options)
    assert code == 1 and "t.csv" in err and (here / "t.csv").read_text() == "my notes"
    assert run(here, "in", "-o", "out", "--overwrite", *options)[0] == 0 and (here / "t.csv").read_text() != "my notes"


@pytest.mark.parametrize(
    "options",
    [("--csv", "in/0.png"), ("--report", "in/0.png"), ("--csv", "new.png"), ("--csv", "t", "--report", "./t"), ("--csv", "out/../in/1.png")],
)
def test_tables_and_pages_never_take_a_picture_s_place(here, options):
    pictures(here / "in")
    before = files(here)
    code, _, err = run(here, "in", "-o", "out", *options)
    assert code == 2 and err.count("\n") == 1 and files(here) == before


# Links


@pytest.mark.parametrize("output", ["in/../in", "link", "in/.", "hard", "soft"])
def test_an_output_that_is_an_input_by_another_name_is_refused(here, output):
    pictures(here / "in")
    (here / "link").symlink_to("in")
    for kind in ("hard", "soft"):
        (here / kind).mkdir()
        for path in (here / "in").iterdir():
            (os.link if kind == "hard" else os.symlink)(path, here / kind / path.name)
    before = files(here)
    for more in ((), ("--overwrite",)):
        code, _, err = run(here, "in", "-o", output, *more)
        assert code in (1, 2) and "input" in err and files(here) == before
    assert not leftovers(here)


def test_in_place_changes_the_content_only(here):
    source = here / "a.png"
    source.write_bytes(b"a")
    source.chmod(0o640)
    (here / "link.png").symlink_to("a.png")
    attributes = True
    try:
        os.setxattr(source, "user.note", b"mine")
    except OSError:
        attributes = False
    assert run(here, "link.png", "--in-place")[0] == 0
    assert (here / "link.png").is_symlink() and source.read_bytes() == b"R(a)" and mode(source) == 0o640
    assert not attributes or os.getxattr(source, "user.note") == b"mine"
    for name in ("link.png", "a.png"):
        assert json.loads(run(here, name, "--in-place", "--json")[1])["status"] == "skipped"
    assert source.read_bytes() == b"R(a)"


def test_in_place_through_a_link_to_another_folder(here):
    (here / "album").mkdir()
    (here / "store").mkdir()
    (here / "store" / "a.png").write_bytes(b"a")
    (here / "album" / "a.png").symlink_to(here / "store" / "a.png")
    assert run(here, "album", "--in-place")[0] == 0
    assert (here / "album" / "a.png").is_symlink() and files(here / "store") == {"a.png": b"R(a)"}
    assert [p.name for p in (here / "album").iterdir()] == ["a.png"]


def test_in_place_on_a_file_with_two_names_changes_neither_unasked(here):
    (here / "a.png").write_bytes(b"a")
    os.link(here / "a.png", here / "b.png")
    code, _, err = run(here, "a.png", "--in-place")
    assert code == 1 and "hard link" in err and files(here) == {"a.png": b"a", "b.png": b"a"}


def test_in_place_on_a_file_that_changes_meanwhile(here):
    (here / "a.png").write_bytes(b"a")
    for more in ((), ("--overwrite",)):
        code, _, err = run(here, "a.png", "--in-place", *more, FAKE_EDIT=here / "a.png")
        assert code == 1 and "changed while" in err and (here / "a.png").read_bytes() == b"edited while it was restored"
        (here / "a.png").write_bytes(b"a")


@pytest.mark.parametrize(("given", "mask", "expected"), [(0o600, 0o022, 0o600), (0o644, 0o022, 0o644), (0o644, 0o077, 0o600), (0o440, 0o022, 0o640)])
def test_results_are_no_more_readable_than_their_sources(here, given, mask, expected):
    pictures(here / "in", 2)
    (here / "in" / "0.png").chmod(given)
    old = os.umask(mask)
    try:
        from flashdiff_cli.pictures.atomic import _umask

        _umask.cache_clear()
        assert run(here, "in", "-o", "out", "--csv", "t.csv", "--report", "t.html")[0] == 0
    finally:
        os.umask(old)
        _umask.cache_clear()
    assert mode(here / "out" / "0.png") == mode(here / "t.csv") == mode(here / "t.html") == expected
    assert mode(here / "out" / "1.png") == 0o666 & ~mask and mode(here / "out" / NAME) == 0o600


# Planted files


def plant(kind, path, victim):
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling":
        path.symlink_to(victim.with_name("new"))
    elif kind == "hard link":
        os.link(victim, path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "pipe", "folder", "device"])
@pytest.mark.parametrize("more", [(), ("--in-place",), ("--overwrite",)])
def test_a_planted_journal_gets_nothing(here, kind, more):
    victim = here / "bashrc"
    victim.write_bytes(b"alias ls=ls\n")
    pictures(here / "in", 1)
    plant(kind, here / "in" / NAME, victim)
    before = files(here / "in")
    code, out, err = run(here, "in", *more, "--json")
    assert code == 1 and sum(NAME in line for line in err.splitlines()) == 1 and json.loads(out)["status"] == "failed"
    assert victim.read_bytes() == b"alias ls=ls\n" and not (here / "new").exists() and files(here / "in") == before


def test_planted_temporary_names_are_left_alone(here):
    """The name that older versions took, and one of those that are taken now."""
    import hashlib

    victim = here / "victim"
    victim.write_bytes(b"precious")
    (here / "a.png").write_bytes(b"a")
    old = hashlib.sha256(b"a-restored.png").hexdigest()[:12]
    for name in (f".flashdiff-{old}.part", ".flashdiff-0123456789abcdef.part"):
        (here / name).symlink_to(victim)
    assert run(here, "a.png")[0] == 0 and victim.read_bytes() == b"precious" and (here / "a-restored.png").read_bytes() == b"R(a)"


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_a_planted_output_is_not_followed(here, kind):
    victim = here / "victim"
    victim.write_bytes(b"precious")
    (here / "a.png").write_bytes(b"a")
    plant(kind, here / "a-restored.png", victim)
    code, _, err = run(here, "a.png")
    assert code == 1 and err.count("\n") == 1
    code, _, err = run(here, "a.png", "--overwrite")
    assert code == (0 if "link" in kind or kind == "dangling" else 1)
    assert victim.read_bytes() == b"precious" and not (here / "new").exists() and not leftovers(here)


# Kills


def complete(here, source, output, in_place=False):
    """Run until all is done, and hold what is there against what should be."""
    expected = files(here / "keep")
    arguments = (source, "--in-place") if in_place else (source, "-o", output)
    code, out, err = run(here, *arguments, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and {r["status"] for r in records} <= {"done", "skipped"}, err
    assert files(here / output) == {name: restored(data) for name, data in expected.items()}
    assert not leftovers(here)
    assert {json.loads(line)["status"] for line in run(here, *arguments, "--json")[1].splitlines()} == {"skipped"}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_point_of_writing(here, point, in_place):
    for turn in range(AIMED):
        (folder := here / str(turn)).mkdir()
        pictures(folder / "in", 4)
        pictures(folder / "keep", 4)
        arguments = ("in", "--in-place") if in_place else ("in", "-o", "out")
        code, _, _ = run(folder, *arguments, FAKE_KILL=f"{point}:{4 - turn % 4}")  # the last one first: nothing is written after it
        assert code == -signal.SIGKILL
        output = "in" if in_place else "out"
        for name, data in files(folder / output).items():
            if not name.startswith("."):
                assert data in (restored((folder / "keep" / name).read_bytes()), (folder / "keep" / name).read_bytes())
        complete(folder, "in", output, in_place)


def test_killed_with_an_empty_file_of_the_name(here):
    """Where a file system has neither hard links nor names that are given once."""
    pictures(here / "in", 3)
    pictures(here / "keep", 3)
    (here / "out").mkdir()
    (here / "out" / "1.png").touch()  # the user's own, which no line knows
    assert run(here, "in", "-o", "out", FAKE_PLAIN=1, FAKE_KILL="empty:2")[0] == -signal.SIGKILL
    assert files(here / "out")["2.png"] == b"" and not (here / "out" / "2.png").stat().st_size
    code, _, err = run(here, "in", "-o", "out", FAKE_PLAIN=1)
    assert code == 1 and "1.png" in err and files(here / "out")["1.png"] == b""
    (here / "out" / "1.png").unlink()
    complete(here, "in", "out")


@pytest.mark.parametrize("in_place", [False, True])
def test_killed_at_any_moment(here, in_place):
    pictures(here / "in", 12)
    pictures(here / "keep", 12)
    arguments, output = (("in", "--in-place"), "in") if in_place else (("in", "-o", "out"), "out")
    rng = random.Random(f"{in_place}")
    for _ in range(KILLS // 2):
        running = Running("restore", *arguments, cwd=here, FAKE_SECONDS=0.003)
        time.sleep(rng.uniform(0, 0.15))
        running.send(signal.SIGKILL)
        running.wait()
        for name, data in files(here / output).items():
            if not name.startswith("."):
                assert data in (restored((here / "keep" / name).read_bytes()), (here / "keep" / name).read_bytes())
    complete(here, "in", output, in_place)


def test_results_with_new_settings_are_known_after_a_kill(here):
    """What is there from before the kill is neither foreign nor taken for what was to come."""
    (here / "a.png").write_bytes(b"a")
    run(here, "a.png")
    for point in POINTS:
        run(here, "a.png", "--seed", "1", FAKE_KILL=f"{point}:1")
        assert json.loads(run(here, "a.png", "--seed", "1", "--json")[1])["status"] in ("done", "skipped")
        assert run(here, "a.png", "--seed", "2")[0] == 0
    assert files(here) == {"a.png": b"a", "a-restored.png": b"R(a)"}


# Side by side


@pytest.mark.parametrize(("in_place", "plain"), [(False, ""), (True, ""), (False, "1"), (True, "1")], ids=["new", "in place", "new, plain", "plain"])
def test_three_runs_at_once(here, in_place, plain):
    """Plain: where only whole files can be locked."""
    for turn in range(1 if plain else AT_ONCE):
        (folder := here / str(turn)).mkdir()
        pictures(folder / "in", 8)
        pictures(folder / "keep", 8)
        arguments, output = (("in", "--in-place"), "in") if in_place else (("in", "-o", "out"), "out")
        running = [Running("restore", *arguments, "--json", cwd=folder, FAKE_SECONDS=0.01, FAKE_PLAIN=plain) for _ in range(3)]
        done = 0
        for code, out, err in [each.wait() for each in running]:
            records = [json.loads(line) for line in out.splitlines()]
            assert code == 0 and len(records) == 8, err
            done += sum(r["status"] == "done" for r in records)
        assert done == 8
        complete(folder, "in", output, in_place)


def test_runs_of_different_sources_into_one_folder_at_once(here):
    one, two = pictures(here / "one"), pictures(here / "two", text="other")
    running = [Running("restore", folder, "-o", "out", cwd=here, FAKE_SECONDS=0.01) for folder in (one, two)]
    for each in running:
        each.wait()
    expected = {restored(data) for folder in (one, two) for data in files(folder).values()}
    assert set(files(here / "out").values()) <= expected
    for folder in (one, two):
        assert run(here, folder, "-o", "out")[0] == 0
    assert set(files(here / "out").values()) == expected


# Full disks


def test_full_disks(here):
    """A limit on the size of files: a picture, a line of the journal, the table or the page that does not fit any more."""
    for turn in range(FULL):
        (folder := here / str(turn)).mkdir()
        pictures(folder / "in", 3)
        pictures(folder / "keep", 3)
        limit = random.Random(turn).randrange(1, 6000)
        arguments = ("in", "-o", "out", "--csv", "t.csv", "--report", "t.html")
        code, _, err = run(folder, *arguments, limit=limit)
        assert code in (0, 1) and (code == 0 or "cannot be written" in err) and not leftovers(folder)
        for name, data in files(folder / "out").items():
            assert data == restored((folder / "keep" / name).read_bytes())
        assert not (folder / "t.html").exists() or (folder / "t.html").read_text().endswith("</html>\n")
        assert not (folder / "t.csv").exists() or (folder / "t.csv").read_text().count("\n") == 4
        assert files(folder / "in") == files(folder / "keep")
        assert run(folder, *arguments)[0] == 0
        complete(folder, "in", "out")


def test_a_line_that_did_not_fit_leaves_none_of_itself(here):
    pictures(here / "in", 3)
    assert run(here, "in/0.png", "-o", "out/")[0] == 0
    journal = here / "out" / NAME
    before = journal.read_bytes()
    code, _, err = run(here, "in", "-o", "out", limit=len(before) + 100)
    assert code == 1 and NAME in err and journal.read_bytes() == before and list(files(here / "out")) == ["0.png"]
    assert run(here, "in", "-o", "out")[0] == 0 and len(files(here / "out")) == 3


# Trouble with one picture


def test_whatever_one_picture_raises_is_its_record(here):
    pictures(here / "in", 3)
    (here / "in" / "1.png").write_bytes(b"trouble")
    code, out, err = run(here, "in", "-o", "out", "--json", "--csv", "t.csv")
    assert code == 1 and [json.loads(line)["status"] for line in out.splitlines()] == ["done", "failed", "done"]
    assert (
        "1.png" in err
        and sum("ZeroDivisionError" in line for line in err.splitlines()) == 1
        and "restored, 1 failed: table t.csv" in err
        and (here / "t.csv").exists()
    )


def test_a_failed_picture_leaves_nothing(here):
    (here / "a.png").write_bytes(b"trouble")
    assert run(here, "a.png", "-o", "deep/down/")[0] == 1 and list(files(here)) == ["a.png"]
    assert [p.name for p in here.iterdir()] == ["a.png"]


# Signals and streams


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_lets_the_picture_in_hand_finish(here, number, expected):
    pictures(here / "in", 60)
    running = Running("restore", "in", "-o", "out", cwd=here, FAKE_SECONDS=0.05)
    for _ in range(2000):
        if (here / "out" / "0.png").exists():
            break
        time.sleep(0.005)
    running.send(number)
    code, _, err = running.wait()
    assert code == expected and "left:" in err and not leftovers(here)
    assert 1 <= len(files(here / "out")) < 60
    assert run(here, "in", "-o", "out")[0] == 0 and len(files(here / "out")) == 60


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_at_any_moment(here, number, expected):
    pictures(here / "in", 6)
    rng = random.Random(number)
    for _ in range(20 if LONG else 3):
        running = Running("restore", "in", "-o", "out", cwd=here, FAKE_SECONDS=0.01)
        time.sleep(rng.uniform(0.001, 0.12))
        running.send(number)
        running.send(number)
        code, out, err = running.wait()
        assert code in (0, expected, -number) and not leftovers(here), (code, out, err)
    assert run(here, "in", "-o", "out")[0] == 0 and len(files(here / "out")) == 6


@pytest.mark.parametrize(("number", "expected", "times"), [(signal.SIGINT, 130, 3), *((signal.SIGTERM, 143, times) for times in (1, 2, 4))])
def test_signals_while_a_file_is_written(here, number, expected, times):
    """However many come, and whenever: no part of a file stays, though another thread is in the middle of it."""
    pictures(here / "in", 3)
    running = Running("restore", "in", "-o", "out", cwd=here, FAKE_WRITING=0.4)
    for _ in range(2000):
        if leftovers(here):
            break
        time.sleep(0.002)
    assert leftovers(here)
    for _ in range(times):
        running.send(number)
        time.sleep(0.03)
    code, _, _ = running.wait()
    assert code in (expected, -number) and not leftovers(here)
    assert all(data.startswith(b"R(") for data in files(here / "out").values())
    assert run(here, "in", "-o", "out")[0] == 0 and len(files(here / "out")) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("more", [(), ("--json",), ("--dry-run",)])
def test_a_full_standard_output(here, more):
    pictures(here / "in")
    code, _, _ = run(here, "in", "-o", "out", "--csv", "t.csv", *more, stdout="/dev/full")
    assert code == 1 and not leftovers(here) and ("--json" in more or "--dry-run" in more or (here / "t.csv").exists())


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_closed_standard_output(here, more):
    pictures(here / "in")
    code, _, _ = run(here, "in", "-o", "out", *more, stdout="closed")
    assert code == 0 and files(here / "out") == {name: restored(data) for name, data in files(here / "in").items()}


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_reader_that_has_gone(here, more):
    pictures(here / "in")
    reading, writing = os.pipe()
    os.close(reading)
    code, _, _ = run(here, "in", "-o", "out", *more, stdout=writing)
    os.close(writing)
    assert code == 1 and not leftovers(here)
