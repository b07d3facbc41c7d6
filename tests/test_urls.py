"""Pictures that are no files of this machine, in stores and archives that need no server."""

import io
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pytest
from picture_files import png
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.runs import remote_entries
from flashdiff_cli.runs.content import absolute_name
from flashdiff_cli.runs.inputs import find, with_targets
from flashdiff_cli.runs.journal import Journal
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.remote_entries import FOLDER, RemoteEntries
from flashdiff_cli.storage.upload import send, uploaded
from flashdiff_cli.storage.url import Url, archive, location


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 20, "eta": 0.0})


@pytest.fixture
def store():
    """An object store in this process, empty."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


def fill(store, names, root="/in"):
    for i, name in enumerate(names):
        store.pipe_file(f"{root}/{name}", png(seed=i))


def files(store, root="/out"):
    return {name.removeprefix(root + "/"): store.cat_file(name) for name in store.find(root) if f"/{FOLDER}/" not in name}


def test_an_address_has_the_face_of_a_path():
    url = Url("s3://bucket/a b/c.d.jpg")
    assert (url.name, url.stem, url.suffix, str(url.parent)) == ("c.d.jpg", "c.d", ".jpg", "s3://bucket/a b")
    assert str(url.with_name("x.png")) == "s3://bucket/a b/x.png" and str(url.with_suffix(".png")) == "s3://bucket/a b/c.d.png"
    assert str(Url("s3://bucket") / Path("a/b.png")) == str(Url("s3://bucket/") / "a/b.png") == "s3://bucket/a/b.png"
    inside = Url("zip://a/b.png::s3://bucket/all.zip")
    assert (inside.name, str(inside.parent), inside.protocol) == ("b.png", "zip://a::s3://bucket/all.zip", "zip")
    assert str(Url("zip://::all.zip") / "a/b.png") == "zip://a/b.png::all.zip" and inside.read_only
    web = Url("https://example.org/my%20scans/a%2Bb.png?sig=1/2")
    assert (web.name, web.suffix, str(web.parent)) == ("a+b.png", ".png", "https://example.org/my%20scans")
    assert isinstance(location("C:/a.png"), Path) and isinstance(location("a:b/c.png"), Path) and location("file:///a.png") == Path("/a.png")


def test_a_store_is_listed_mirrored_and_skipped_as_a_folder_is(run, store, tmp_path):
    names = ["a.png", "b.gif", "b.png", "below/c.png", "below/deep/d.png", ".hidden.png", "notes.txt", "@eaDir/e.png"]
    fill(store, names)
    for i, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(seed=i))
    code, here, said_here = run(tmp_path / "in", "-r", "-o", tmp_path / "out")
    assert code == 0 and len(here) == 5
    code, there, said = run("memory://in", "-r", "-o", "memory://out")
    assert code == 0 and said.splitlines()[0] == said_here.splitlines()[0] and "3 passed over" in said
    local = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.name[0] != "."}
    assert files(store) == local and {"b.png", "b-2.png", "below/deep/d.png"} <= set(local)
    assert all(r["input"].startswith("memory://in/") and r["output"].startswith("memory://out/") for r in there)
    before = {name: store.info(f"/out/{name}")["created"] for name in files(store)}
    code, again, _ = run("memory://in", "-r", "-o", "memory://out")
    assert code == 0 and [r["status"] for r in again] == ["skipped"] * 5 and [r["severity"] for r in again] == [r["severity"] for r in there]
    assert before == {name: store.info(f"/out/{name}")["created"] for name in files(store)}
    # One part of the journal a folder, whatever number of pictures.
    assert sorted(name.rsplit("/", 2)[0] for name in store.find("/out") if f"/{FOLDER}/" in name) == ["/out", "/out/below", "/out/below/deep"]


def test_what_was_changed_is_done_again_and_what_is_not_flashdiffs_stays(run, store):
    fill(store, ["a.png", "b.png", "c.png"])
    assert run("memory://in", "-o", "memory://out")[0] == 0
    store.pipe_file("/in/a.png", png(seed=7))
    store.pipe_file("/out/b.png", b"somebody's")
    code, records, err = run("memory://in", "-o", "memory://out")
    assert code == 1 and {Path(r["input"]).name: r["status"] for r in records} == {"a.png": "done", "b.png": "failed", "c.png": "skipped"}
    assert "not flashdiff's" in err and store.cat_file("/out/b.png") == b"somebody's"
    code, records, _ = run("memory://in", "-o", "memory://out", "--overwrite")
    assert code == 0 and [r["status"] for r in records] == ["done"] * 3 and store.cat_file("/out/b.png") != b"somebody's"


def test_beside_the_inputs_and_in_place(run, store):
    fill(store, ["a.png", "b.png"])
    before = store.cat_file("/in/b.png")
    assert run("memory://in/a.png")[0] == 0
    assert "a-restored.png" in files(store, "/in")
    code, records, _ = run("memory://in")
    assert code == 0 and [Path(r["input"]).name for r in records] == ["a.png", "b.png"]  # and not what was made
    assert run("memory://in/b.png", "--in-place")[0] == 0 and store.cat_file("/in/b.png") != before
    changed = store.cat_file("/in/b.png")
    code, records, _ = run("memory://in/b.png", "--in-place")
    assert code == 0 and records[0]["status"] == "skipped" and store.cat_file("/in/b.png") == changed


def test_patterns_lists_and_other_tables(run, store, tmp_path, monkeypatch):
    fill(store, ["a.png", "b.png", "c.txt", "b[1].png"])
    assert [job.source.name for job in find(["memory://in/?.png"])] == ["a.png", "b.png"]
    assert [str(job.source) for job in find(["-"], listed=[b"memory://in/b.png", b"memory://in/a.png"])] == ["memory://in/b.png", "memory://in/a.png"]
    with pytest.raises(FlashdiffError, match="nothing matches"):
        find(["memory://in/*.jpg"])
    with pytest.raises(FlashdiffError, match="no pictures"):
        find(["memory://empty/"])
    code, _, _ = run("memory://in", "-o", tmp_path / "out", "--csv", "memory://out/all.csv", "--report", "memory://out/all.html", "-n", "2")
    assert code == 0 and store.cat_file("/out/all.csv").count(b"\n") == 4 and b"b[1].png" in store.cat_file("/out/all.html")
    assert len(list((tmp_path / "out").glob("*-mean.png"))) == 3


def test_a_failed_picture_leaves_nothing(run, store):
    fill(store, ["a.png"])
    store.pipe_file("/in/bad.png", b"\x89PNG\r\n\x1a\n and no more")
    code, records, err = run("memory://in", "memory://in/none.png", "-o", "memory://out")
    assert code == 1 and [r["status"] for r in records] == ["done", "failed", "failed"]
    assert "memory://in/none.png: no such file" in err and set(files(store)) == {"a.png"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_an_archive_is_a_folder(run, store, tmp_path, kind):
    names = ["a.png", "below/b.png", "../../out.png", "below/notes.txt"]
    path = tmp_path / f"all.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            for i, name in enumerate(names):
                file.writestr(name, png(seed=i))
    else:
        with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as file:
            for i, name in enumerate(names):
                member = tarfile.TarInfo(name)
                member.size = len(png(seed=i))
                file.addfile(member, io.BytesIO(png(seed=i)))
    code, records, err = run(path, "-r", "-o", tmp_path / "x" / "out")
    assert code == 0 and len(records) == 2 and "lead out of their folder" in err
    made = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert made == ["x/out/a.png", "x/out/below/b.png"]
    assert [r["status"] for r in run(path, "-r", "-o", tmp_path / "x" / "out")[1]] == ["skipped"] * 2
    store.put_file(str(path), f"/in/all.{kind}")
    code, far, _ = run(f"memory://in/all.{kind}", "-r", "-o", "memory://out")
    assert code == 0 and len(far) == 2
    assert store.cat_file("/out/below/b.png") == (tmp_path / "x" / "out" / "below" / "b.png").read_bytes()
    code, _, err = run(path, "-r")
    assert code == 2 and "is only read" in err and err.count("\n") == 2


def test_only_archives_are_archives(tmp_path):
    (tmp_path / "folder.zip").mkdir()
    assert archive(tmp_path / "folder.zip") is None and archive(Url("s3://b/a.png")) is None
    assert str(archive(Url("s3://b/a.tar.gz"))) == "tar://::s3://b/a.tar.gz"


@pytest.mark.parametrize(
    ("address", "said"),
    [("https://example.org/out/", "only read"), ("zip://::all.zip", "only read"), ("nonsense://a/b", "Protocol not known: nonsense")],
)
def test_what_cannot_be_written_is_refused_before_anything_is_done(run, store, address, said):
    fill(store, ["a.png"])
    code, records, err = run("memory://in", "-o", address)
    assert code == 2 and said in err and not records and err.count("\n") == 1


def test_an_upload_that_fails_or_is_interrupted_leaves_nothing(store):
    with pytest.raises(RuntimeError), uploaded(Url("memory://out/a.png")) as file:
        file.write(b"half")
        raise RuntimeError
    assert not store.exists("/out/a.png")
    send(Url("memory://out/a.png"), b"first", replace=False)
    with pytest.raises(FlashdiffError, match="exists already"):
        send(Url("memory://out/a.png"), b"second", replace=False)
    assert store.cat_file("/out/a.png") == b"first"


def test_a_line_is_written_before_its_result(run, store, monkeypatch):
    """Killed between the two, a run leaves a line that no file fits; the next does the picture."""
    fill(store, ["a.png"])
    order = []
    pipe = type(store).pipe_file

    def recorded(self, path, value, **kwargs):
        order.append(path)
        if path == "/out/a.png" and len(order) < 3:
            raise OSError("the connection was lost")
        return pipe(self, path, value, **kwargs)

    monkeypatch.setattr(type(store), "pipe_file", recorded)
    code, records, err = run("memory://in", "-o", "memory://out")
    assert code == 1 and "cannot be written (the connection was lost)" in err and not store.exists("/out/a.png")
    assert [f"/{FOLDER}/" in path for path in order[:2]] == [True, False]
    code, records, _ = run("memory://in", "-o", "memory://out")
    assert code == 0 and records[0]["status"] == "done" and store.exists("/out/a.png")


def test_a_strangers_journal_is_bounded_and_harmless(run, store, monkeypatch):
    fill(store, ["a.png"])
    store.pipe_file(f"/out/{FOLDER}/{'0' * 24}.jsonl", b'{"output": "../../etc/passwd"}\n\xff\xfe\n{"output": "a.png", "source": 3}\n')
    store.pipe_file(f"/out/{FOLDER}/other.jsonl", b"not read")
    code, records, _ = run("memory://in", "-o", "memory://out")
    assert code == 0 and records[0]["status"] == "done"
    monkeypatch.setattr("flashdiff_cli.runs.remote_entries.LARGEST", 10)
    assert "larger than" in RemoteEntries(Url("memory://out")).trouble


def test_the_report_of_a_store(run, cli, store):
    fill(store, ["a.png", "below/b.png"])
    assert run("memory://in", "-r", "-o", "memory://out")[0] == 0
    code, out, err = cli("report", "memory://out", "--json", "-o", "memory://told/all.html")
    assert code == 0 and "2 restored" in err and len(out.splitlines()) == 2
    page = store.cat_file("/told/all.html")
    assert page.count(b"<figure>") == 2 and page.count(b'class="before"') == 2


def test_names_do_not_leave_an_output(store):
    for name in ("in/../../up.png", "in/a\\b.png"):
        store.store[f"/{name}"] = fsspec.implementations.memory.MemoryFile(store, f"/{name}", png())
    fill(store, ["good.png"])
    jobs = with_targets(find(["memory://in"], recursive=True), "/somewhere/out")
    assert [str(job.target) for job in jobs] == ["/somewhere/out/good.png"]


def test_the_python_verb_reads_addresses(store, model):
    import flashdiff_cli as flashdiff

    fill(store, ["a.png"])
    restored, record = flashdiff.restore("memory://in/a.png", model=model, start_step=0)
    assert restored.size == (24, 16) and record.input == "memory://in/a.png"
    with pytest.raises(UsageError, match="Protocol not known"):
        flashdiff.restore("nonsense://a.png", model=model)


def write(journal, job, data=b"result"):
    with journal.result(job, "settings", "0" * 64, Record(str(job.source))) as file:
        file.write(data)


def test_one_of_many_workers_lists_no_folder_and_knows_what_others_did(store, monkeypatch):
    fill(store, [f"{i}.png" for i in range(3)])
    jobs = with_targets(find(["memory://in"]), "memory://out")
    one, other = Journal(sparse=True), Journal(sparse=True)
    listed = []
    entries = remote_entries.listing.entries
    monkeypatch.setattr(remote_entries.listing, "entries", lambda folder: listed.append(str(folder)) or entries(folder))
    for job in jobs[:2]:
        assert one.state(job, "settings") == "new"
        write(one, job)
    assert one.state(jobs[0], "settings") == "done" and listed == []
    # The journal is read where a file is there that is not known.
    assert [other.state(job, "settings") for job in jobs] == ["done", "done", "new"] and set(listed) == {f"memory://out/{FOLDER}"}
    assert other.state(jobs[2], "settings") == "new"
    write(one, jobs[2])
    assert other.state(jobs[2], "settings", anew=True) == "done" and other.record(jobs[2]).status == "skipped"
    with pytest.raises(FlashdiffError, match="is not flashdiff's"):
        store.pipe_file("/out/0.png", b"somebody's")
        other.state(jobs[0], "settings", anew=True)
        write(other, jobs[0])


def test_all_small_parts_of_a_journal_are_made_few(store, monkeypatch):
    fill(store, [f"{i}.png" for i in range(9)])
    jobs = with_targets(find(["memory://in"]), "memory://out")
    for job in jobs:
        write(Journal(sparse=True), job)

    def parts():
        return [name for name in store.find("/out") if f"/{FOLDER}/" in name]

    longest = max(store.size(name) for name in parts())
    monkeypatch.setattr(remote_entries, "SMALL", longest + 1)
    monkeypatch.setattr(remote_entries, "TOGETHER", 4 * longest)
    RemoteEntries(Url("memory://out")).unite()
    assert len(parts()) in (2, 3)
    monkeypatch.undo()
    journal = Journal()
    assert {journal.state(job, "settings") for job in jobs} == {"done"}
    assert journal.unite() == [] and len(parts()) == 1


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("ftp://user:hush@127.0.0.1:9/a.png", "hush"),
        ("https://127.0.0.1:9/a.png?X-Amz-Date=1&X-Amz-Signature=hush&x=2", "hush"),
        ("https://account.blob/a.png?sv=1&sig=hush%3D", "hush"),
        ("zip://a.png::https://user:hush@host/b.zip?api_key=hush", "hush"),
    ],
)
def test_passwords_and_signatures_are_shown_nowhere(address, secret):
    url = location(address)
    assert secret not in f"{url} {url!r} {Record(str(url)).to_json()} {absolute_name(url)}" and url.text == address
    assert (url.parent / "c.png").text.count(secret) == url.parent.text.count(secret) and url.name == "a.png"
    with pytest.raises(FlashdiffError) as refused:
        url.ask("read", lambda fs, path: 1 / 0)
    assert secret not in str(refused.value)


def test_other_parts_of_an_address_are_shown():
    for address in ("s3://bucket/a:b@c.png", "github://owner:name@main/a.png", "https://host/a.png?page=2&size=3"):
        assert str(location(address)) == address


def test_a_file_of_this_machine_is_one_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a::b.png").write_bytes(b"x")
    assert location("a::b.png") == Path("a::b.png") and isinstance(location("zip::b.png"), Url)
    assert location("FILE:///tmp/a.png") == location("file:///tmp/a.png") == Path("/tmp/a.png")
