"""Models by name and from a Hub: pull, cache, revisions, interruption, damage, offline, publishing."""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.checksums import SUMS, check_folder, write_sums
from flashdiff_cli.hub.download import download
from flashdiff_cli.hub.registry import known_models, parse, shipped_folder
from flashdiff_cli.models.push import push_folder
from flashdiff_cli.models.resolve import find_model, resolve_model

DEFAULTS = {"solver": "ldps", "steps": 10, "eta": 0.0}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults=DEFAULTS)


def test_pull_then_the_cache_then_offline(program, programs, hub, model):
    commit = hub.add("someone/tiny", model)
    code, out, err = program("models", "pull", "someone/tiny")
    assert code == 0, err
    folder = out.strip()
    assert folder.endswith(f"snapshots/{commit}") and (open(f"{folder}/{WEIGHTS}", "rb").read() == (model / WEIGHTS).read_bytes())
    hub.asked.clear()
    assert program("models", "pull", "someone/tiny")[1].strip() == folder
    assert not hub.got("safetensors")
    hub.asked.clear()
    path, verify, info = programs(*(("models", verb, "someone/tiny") for verb in ("path", "verify")), ("models", "info", "someone/tiny", "--json"))
    assert path[1].strip() == folder and verify[0] == 0 and not hub.asked
    assert info[0] == 0 and json.loads(info[1])["components"]["unet"]["class"] == "UNet2DModel"


def test_a_cached_model_serves_when_the_hub_is_gone(program, hub, model):
    hub.add("someone/tiny", model)
    folder = program("models", "pull", "someone/tiny")[1].strip()
    code, out, err = program("models", "pull", "someone/tiny", endpoint="http://127.0.0.1:9")
    assert code == 0 and out.strip() == folder, err


def test_revisions(programs, hub, model):
    old = hub.add("someone/tiny", model, tag="v1")
    changed = {p.relative_to(model).as_posix(): p.read_bytes() for p in model.rglob("*") if p.is_file()}
    changed["README.md"] = b"new"
    new = hub.add("someone/tiny", changed)
    names = ("someone/tiny@v1", f"someone/tiny@{old}", "someone/tiny", "someone/tiny@v9", "someone/other")
    tagged, by_commit, newest, unknown, nobody = programs(*(("models", "pull", name) for name in names))
    assert tagged[1].strip().endswith(old) and by_commit[1].strip().endswith(old) and newest[1].strip().endswith(new)
    assert unknown[0] == 1 and "v9" in unknown[2] and "no such revision" in unknown[2]
    assert nobody[0] == 1 and "someone/other" in nobody[2] and "no such repository" in nobody[2]


def test_an_interrupted_pull_goes_on_where_it_stopped(program, hub, model):
    # The client writes pieces of 10 MiB, so what a cut loses is the piece that it was in.
    piece, large, path = 10 << 20, os.urandom(25 << 20), "extra/large.safetensors"
    files = {p.relative_to(model).as_posix(): p.read_bytes() for p in model.rglob("*") if p.is_file()}
    hub.add("someone/large", files | {path: large})
    hub.cut[path] = 15 << 20
    code, out, err = program("models", "pull", "someone/large")
    if code:
        assert "run again" in err
        code, out, err = program("models", "pull", "someone/large")
    assert code == 0, err
    with open(f"{out.strip()}/{path}", "rb") as file:
        assert file.read() == large
    assert hub.got(path)[1:] == [f"bytes={piece}-"]


def test_a_wrong_checksum_is_refused_and_the_next_pull_mends_it(program, hub, model):
    hub.add("someone/tiny", model)
    hub.corrupt.add(WEIGHTS)
    code, out, err = program("models", "pull", "someone/tiny")
    assert code == 1 and not out and "wrong checksum" in err and WEIGHTS in err
    assert program("models", "path", "someone/tiny")[0] == 1
    hub.corrupt.clear()
    code, out, err = program("models", "pull", "someone/tiny")
    assert code == 0 and (open(f"{out.strip()}/{WEIGHTS}", "rb").read()) == (model / WEIGHTS).read_bytes(), err


def test_verify_finds_what_was_damaged_later(program, hub, model):
    hub.add("someone/tiny", model)
    folder = program("models", "pull", "someone/tiny")[1].strip()
    with open(f"{folder}/{WEIGHTS}", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff\x00"[:1])
    code, out, err = program("models", "verify", "someone/tiny")
    assert code == 1 and "1 damaged" in out and WEIGHTS in err


def test_not_here_and_no_network(program, programs, tmp_path):
    names = ("someone/tiny", "ffhq-256", "celebahq-256")
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    for code, _, err in programs(*(("restore", "--offline", "--model", name, "picture.png") for name in names)):
        assert code == 1 and "models pull" in err and not (tmp_path / "picture-restored.png").exists()
    *paths, unknown = programs(*(("models", "path", name) for name in names), ("models", "pull", "no-such-name"))
    for name, (code, _, err) in zip(names, paths, strict=True):
        assert code == 1 and f"models pull {name}" in err
    assert unknown[0] == 2 and "photos" in unknown[2]
    code, _, err = program("models", "pull", "someone/tiny", HF_HUB_OFFLINE="1")
    assert code == 1 and "not on this machine" in err and len(err.strip().splitlines()) == 1


def test_a_repository_of_pickled_weights_is_rewritten_without_running_them(program, programs, hub, model, tmp_path):
    files = {}
    for path in model.rglob("*"):
        if path.suffix == ".safetensors":
            buffer = io.BytesIO()
            torch.save(load_file(path), buffer)
            files[path.relative_to(model).with_suffix(".bin").as_posix()] = buffer.getvalue()
        elif path.is_file():
            files[path.relative_to(model).as_posix()] = path.read_bytes()
    commit = hub.add("someone/old", files)

    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'harmed'}",)

    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(1), "extra": Harm()}, buffer)
    hub.add("someone/evil", files | {"unet/diffusion_pytorch_model.bin": buffer.getvalue()})
    (code, out, err), evil, verify = programs(
        ("models", "pull", "someone/old"), ("models", "pull", "someone/evil"), ("models", "verify", "someone/old")
    )
    assert code == 0, err
    folder = out.strip()
    assert folder.endswith(f"flashdiff/someone/old/{commit}")
    assert all(torch.equal(v, load_file(model / WEIGHTS)[k]) for k, v in load_file(f"{folder}/{WEIGHTS}").items())
    assert verify[0] == 0
    hub.asked.clear()
    assert program("models", "path", "someone/old")[1].strip() == folder and not hub.asked
    assert evil[0] == 1 and "refused" in evil[2] and not evil[1]
    assert not (tmp_path / "harmed").exists()


def test_push_then_pull_gives_the_same_model(programs, hub, model):
    pushed, pulled, refused = programs(
        ("models", "push", model, "someone/mine"), ("models", "pull", "someone/mine"), ("models", "push", model / "unet", "someone/mine")
    )
    assert pushed[0] == 0 and "/someone/mine/commit/" in pushed[1], pushed[2]
    assert pulled[0] == 0, pulled[2]
    for path in model.rglob("*"):
        if path.is_file():
            assert open(f"{pulled[1].strip()}/{path.relative_to(model)}", "rb").read() == path.read_bytes()
    assert refused[0] == 1 and "model_index.json" in refused[2]


def test_nothing_is_published_that_lies_elsewhere_or_is_hidden(model, tmp_path, monkeypatch):
    """The Hub's client follows links, and whoever made the folder has chosen what they mean."""
    folder, private, sent = tmp_path / "tiny", tmp_path / "private", []

    class Api:
        def create_repo(self, *_, **more):
            sent.append(())

        def upload_folder(self, folder_path, allow_patterns, ignore_patterns, **more):
            names = [path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*") if path.is_file()]
            sent.append(set(filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)))
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    shutil.copytree(model, folder)
    private.mkdir()
    (private / "config.json").write_text('{"token": "hush"}')
    for place in ("more.json", "unet/more.json", "linked"):
        (folder / place).symlink_to(private if place == "linked" else private / "config.json")
        with pytest.raises(FlashdiffError, match="leads out of the model folder"):
            push_folder(folder, "someone/leaky")
        (folder / place).unlink()
    assert not sent
    (folder / ".hidden").mkdir()
    for name in (".secret.json", ".hidden/token.json"):
        (folder / name).write_text("{}")
    push_folder(folder, "someone/clean")
    assert sent[1] == {path.relative_to(model).as_posix() for path in model.rglob("*") if path.suffix in (".json", ".safetensors")}


def test_list_and_info(programs):
    (code, out, _), listed, (info, told, _) = programs(("models", "list", "--json"), ("models", "list"), ("models", "info", "ffhq-256"))
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert code == 0 and set(rows) == {"photos", "celebahq-256", "ffhq-256", "lsun-bedrooms-256"}
    assert rows["photos"]["path"] and rows["ffhq-256"]["path"] is None
    assert listed[0] == 0 and max(map(len, listed[1].splitlines())) <= 80
    assert info == 0 and "ommer-lab.com" in told and "CC BY-NC-SA" in told


# The parts below the commands.


def test_download_resumes_checks_and_starts_again_when_the_file_has_changed(hub, tmp_path):
    data = os.urandom(3 << 20)
    hub.files["/big.zip"] = data
    hub.cut["/big.zip"] = 1 << 20
    target, seen = tmp_path / "big.zip", []
    with pytest.raises(FlashdiffError, match="run again"):
        download(f"{hub.address}/big.zip", target)
    assert not target.exists()
    download(f"{hub.address}/big.zip", target, hashlib.sha256(data).hexdigest(), lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == data and seen[-1] == (len(data), len(data))
    assert hub.got("/big.zip")[-1] == f"bytes={1 << 20}-"
    hub.cut["/big.zip"] = 1 << 20
    with pytest.raises(FlashdiffError, match="run again"):
        download(f"{hub.address}/big.zip", tmp_path / "again.zip")
    hub.files["/big.zip"] = other = os.urandom(2 << 20)
    assert download(f"{hub.address}/big.zip", tmp_path / "again.zip").read_bytes() == other
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.zip", "big.zip"]


def test_download_refuses_a_wrong_checksum_a_page_and_nothing(hub, tmp_path):
    hub.files["/x.zip"] = b"abc"
    with pytest.raises(FlashdiffError, match="wrong checksum"):
        download(f"{hub.address}/x.zip", tmp_path / "x.zip", "0" * 64)
    for address, reason in (("/page.html", "web page"), ("/gone.zip", "404")):
        with pytest.raises(FlashdiffError, match=reason):
            download(hub.address + address, tmp_path / "y")
    with pytest.raises(FlashdiffError, match="no connection"):
        download("http://127.0.0.1:9/z", tmp_path / "z")
    assert not list(tmp_path.iterdir())


def test_checksums_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    write_sums(tmp_path)
    assert [(c.path, c.state) for c in check_folder(tmp_path)] == [("a/one", "ok"), ("two", "ok")]
    (tmp_path / "a" / "one").write_text("3")
    (tmp_path / "two").unlink()
    assert [c.state for c in check_folder(tmp_path)] == ["damaged", "missing"]
    for line in ("nonsense", f"{'0' * 64}  ../outside", f"{'0' * 64}  /etc/passwd"):
        (tmp_path / SUMS).write_text(line + "\n")
        with pytest.raises(FlashdiffError, match="not a list of checksums"):
            check_folder(tmp_path)


def test_a_planted_list_of_checksums_is_not_followed(tmp_path):
    """A stranger's model folder, whose list is a link and whose files are named as lines of another program's."""
    victim, folder = tmp_path / "bashrc", tmp_path / "model"
    victim.write_text("alias ls=ls\n")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / SUMS).symlink_to(victim)
    write_sums(folder)
    assert victim.read_text() == "alias ls=ls\n" and not (folder / SUMS).is_symlink()
    assert {check.state for check in check_folder(folder)} == {"ok"}
    (folder / "x\ntouch here").write_text("")
    with pytest.raises(FlashdiffError, match="is no name for a file of a model"):
        write_sums(folder)


def test_the_registry_is_complete_and_says_where_it_is_wrong():
    for name, model in known_models().items():
        assert model.terms and model.domain and model.megabytes > 0 and model.name == name
        assert model.severity or {e.role for e in model.encoders} >= {"severity", "severity_inpainting"}
    for entry, reason in (({"domain": "x"}, "missing"), ({"colour": 1}, "colour")):
        with pytest.raises(FlashdiffError, match=reason):
            parse({"bad": entry}, "registry.json")
    fields = {"domain": "", "resolution": 1, "megabytes": 1, "terms": ""}
    with pytest.raises(FlashdiffError, match="exactly one"):
        parse({"bad": fields}, "registry.json")


def test_a_folder_of_pictures_may_be_called_what_the_model_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert resolve_model("photos") == find_model("photos") == shipped_folder(known_models()["photos"])
    (tmp_path / "photos" / "model_index.json").write_text("{}")
    assert resolve_model("photos") == Path("photos")


def test_the_shipped_weights_are_those_that_were_published():
    checks = check_folder(shipped_folder(known_models()["photos"]))
    assert len(checks) >= 9 and all(c.state == "ok" for c in checks), checks
