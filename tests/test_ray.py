"""Many workers on Ray, on this machine: what one machine gives, whatever is killed. FLASHDIFF_LONG=1: 200 pictures of a bucket."""

import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace

import pytest
from picture_files import png
from tiny import save_tiny_model

from flashdiff_cli import __version__
from flashdiff_cli.commands import extras
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.runs.cluster import Cluster, connected
from flashdiff_cli.runs.entries import NAME
from flashdiff_cli.runs.inputs import find, with_targets
from flashdiff_cli.runs.remote_entries import FOLDER
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.runs.spread import LOSSES, restore_all
from flashdiff_cli.runs.task import Task
from flashdiff_cli.runs.worker import Worker

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra [ray]")
RAY = ("--engine", "ray", "--workers", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 20, "eta": 0.0})


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this process, in which the runs of these tests have their workers."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the workers have it
    with connected(Cluster(workers=2)) as found:
        yield found


@pytest.fixture
def scans(tmp_path):
    (tmp_path / "in" / "below").mkdir(parents=True)
    for i in range(10):
        (tmp_path / "in" / ("below" if i % 3 else ".") / f"{i}.png").write_bytes(png(seed=i))
    return tmp_path / "in"


def planned(scans, out, model, kind=Task):
    jobs = with_targets(find([scans], recursive=True), out)
    return jobs, kind(Settings(start_step=2), str(model), "cpu", made_with="same")


def results(folder):
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.png")}


def times_written(folder):
    """How often each result was written, by the journals."""
    lines = [json.loads(line) for path in folder.rglob(NAME) for line in path.read_text().splitlines()]
    return Counter(line["output"] for line in lines if "source" in line)


def timeless(record):
    return {name: value for name, value in record.items() if name not in ("seconds", "output")}


def workers_of(driver):
    import psutil

    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Worker"):
                found.append(process.pid)
        except psutil.Error:
            continue
    return sorted(found)


@needs_ray
def test_a_run_on_workers_is_a_run(run, scans, cluster, monkeypatch, tmp_path):
    """The same files, records, journal, skipping, tables and failures; relative names too."""
    monkeypatch.chdir(tmp_path)
    (scans / "bad.png").write_bytes(b"no picture")
    alone, there = [run("in", "-r", "-o", name, "--csv", f"{name}.csv", *more) for name, more in (("alone", ()), ("there", RAY))]
    assert alone[0] == there[0] == 1 and len(there[1]) == 11
    assert results(tmp_path / "alone") == results(tmp_path / "there") and len(results(tmp_path / "there")) == 10
    by_name = [sorted(map(timeless, records), key=lambda record: record["input"]) for _, records, _ in (alone, there)]
    assert by_name[0] == by_name[1]
    assert {r["output"] for r in there[1]} == {None, *(f"there/{name}" for name in results(tmp_path / "there"))}
    assert "in/bad.png: not a picture" in there[2] and "10 restored, 1 failed" in there[2] and "[10/11]" in there[2]
    assert (tmp_path / "there.csv").read_text().count("\n") == 12
    again = run("in", "-r", "-o", "there", "--csv", "again.csv")
    assert Counter(r["status"] for r in again[1]) == {"skipped": 10, "failed": 1}
    (tmp_path / "there" / "0.png").write_bytes(b"somebody's")
    code, records, err = run("in", "-r", "-o", "there", *RAY)
    assert code == 1 and Counter(r["status"] for r in records) == {"skipped": 9, "failed": 2} and "not flashdiff's" in err


@needs_ray
def test_pictures_of_a_lost_worker_are_done_by_others_once(scans, model, cluster, tmp_path):
    jobs, task = planned(scans, tmp_path / "alone", model)
    assert {r.status for r in restore_all(jobs, task, Cluster(workers=1))} == {"done"}
    jobs, task = planned(scans, tmp_path / "out", model)
    running, told = restore_all(jobs, task, Cluster(workers=2)), []
    told += [next(running) for _ in range(3)]
    victims = workers_of(os.getpid())
    assert victims
    os.kill(victims[-1], signal.SIGKILL)
    told += running
    assert sorted(r.input for r in told) == sorted(str(job.source) for job in jobs) and {r.status for r in told} == {"done"}
    assert results(tmp_path / "out") == results(tmp_path / "alone")
    # A line may tell of a result that the lost worker could not give its name any more.
    written = times_written(tmp_path / "out")
    assert set(written) == {job.target.name for job in jobs} and written.total() <= len(jobs) + 1
    assert not list((tmp_path / "out").rglob("*.part"))


@needs_ray
def test_a_picture_that_takes_its_workers_with_it_is_one_record(scans, model, cluster, tmp_path, capsys):
    class Deadly(Task):
        def writing(self, restorer, journal, job, *given):
            if job.source.name == "4.png":
                os.kill(os.getpid(), 9)
            return super().writing(restorer, journal, job, *given)

    jobs, task = planned(scans, tmp_path / "out", model, Deadly)
    told = {r.input: r for r in restore_all(jobs, task, Cluster(workers=2))}
    failed = [r for r in told.values() if r.status == "failed"]
    assert len(told) == 10 and [r.input for r in failed] == [str(scans / "below" / "4.png")]
    assert f"{LOSSES} workers were lost" in failed[0].error and len(results(tmp_path / "out")) == 9
    assert capsys.readouterr().out == ""  # where records go


@needs_ray
def test_a_run_that_is_stopped_leaves_the_rest(scans, model, cluster, tmp_path):
    jobs, task = planned(scans, tmp_path / "out", model)
    told, stop = [], threading.Event()
    for record in restore_all(jobs, task, Cluster(workers=2), stop.is_set):
        told.append(record)
        stop.set()
    assert 1 <= len(told) < 10 and len(results(tmp_path / "out")) == len(told)
    assert Counter(r.status for r in restore_all(jobs, task, Cluster(workers=1))) == {"done": 10 - len(told), "skipped": len(told)}


@needs_ray
def test_a_model_that_cannot_be_loaded_and_an_address_that_is_none_are_one_line(cli, scans, model, cluster, tmp_path):
    code, out, err = cli("restore", scans, "-r", "-o", tmp_path / "out", "--model", model, "--encoder", "none-such", *RAY, "-q")
    assert code in (1, 2) and not out and err.count("\n") == 1 and "none-such" in err
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    command = [sys.executable, "-m", "flashdiff_cli.commands.app", "restore", scans, "-r", "-o", tmp_path / "out"]
    command += ["--model", model, *RAY, "--address"]
    for where, said in ((address, "refused"), ("ray://head:10001", "ray job submit"), ("head", "give host:port")):
        done = subprocess.run([*command, where], capture_output=True, text=True)
        assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, done.stderr
        assert f"--address {where}" in done.stderr and said in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_ray_and_with_options_that_do_not_go_together_it_is_one_line(cli, scans, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    for more, said in (
        (("--engine", "ray"), 'pip install "flashdiff[ray]"'),
        (("--engine", "rya"), "did you mean ray?"),
        (("--workers", "2"), "--workers goes with --engine ray"),
        (("--gpus-per-worker", "0"), "--gpus-per-worker goes with --engine ray"),
        (("--engine", "ray", "--device", "cuda:1"), "Ray hands out the GPUs"),
    ):
        code, out, err = cli("restore", scans, "-r", *more)
        assert code == 2 and not out and said in err and err.count("\n") == 1


def test_what_was_left_open_is_as_the_cluster_has_room():
    large = {"CPU": 64.0, "GPU": 8.0}
    assert Cluster("auto").among(large) == Cluster("auto", 8, 1.0) and Cluster("auto", gpus=0.5).among(large).workers == 16
    assert Cluster(gpus=0.0, cpus=4).among(large).workers == 16 and Cluster().among({"CPU": 2.0}) == Cluster(None, 2, 0.0)
    assert Cluster("auto", gpus=1.0).among({"CPU": 2.0}).workers == 1  # until machines have been started
    with pytest.raises(UsageError, match="this machine has 0"):
        Cluster(gpus=1.0).among({"CPU": 2.0})
    for wrong in (Cluster(workers=0), Cluster(gpus=1.5), Cluster(gpus=-1.0), Cluster("ray://head:10001")):
        with pytest.raises(UsageError):
            wrong.check()


def test_a_worker_needs_the_same_version_and_folder_and_does_nothing_twice(scans, model, tmp_path, monkeypatch):
    jobs, task = planned(scans, tmp_path / "out", model)
    with pytest.raises(FlashdiffError, match="install the same"):
        Worker(task, None, {}, "0.0.1").load()
    with pytest.raises(FlashdiffError, match="give whole paths"):
        Worker(task, str(tmp_path / "none"), {}, __version__).load()
    first, other = Worker(task, None, {}, __version__), Worker(task, None, {}, __version__)
    first.load()
    assert [(number, r.status) for number, r in first.restore([(7, jobs[0]), (3, jobs[1])])] == [(7, "done"), (3, "done")]
    other.restorer = first.restorer
    assert [(number, r.status) for number, r in other.restore([(3, jobs[1])])] == [(3, "skipped")]
    other.stop()
    assert list(other.restore([(4, jobs[2])])) == []
    other.task, other.stopped = replace(task, overwrite=True), False
    assert [r.status for _, r in other.restore([(3, jobs[1])])] == ["done"]


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_runs_is_joined(scans, model, cluster, tmp_path):
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "flashdiff_cli.commands.app", "restore", scans, "-o", tmp_path / "out", "--model", model, "--start-step", "2"]
    done = subprocess.run([*command, "--engine", "ray", "--workers", "1", "--address", address, "-q"], capture_output=True, text=True)
    assert done.returncode == 0 and len(results(tmp_path / "out")) == 4, done.stderr
    assert ray.is_initialized() and ray.nodes()[0]["Alive"]


def drive(model, *arguments, env=None):
    """The program in a process of its own, with a cluster of its own."""
    command = [sys.executable, "-m", "flashdiff_cli.commands.app", "restore", *arguments, "-r", "--json", "--model", model, "--start-step", "2", *RAY]
    return subprocess.Popen([*map(str, command), "--device", "cpu", "-q"], env=os.environ | (env or {}), stdout=subprocess.PIPE, text=True)


def killed_after(count, driver):
    """Kill a driver once it has told of so many pictures."""
    with driver:
        told = [json.loads(driver.stdout.readline()) for _ in range(count)]
        assert workers_of(driver.pid)
        driver.kill()
    return told


@needs_ray
@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on(scans, model, tmp_path):
    told = killed_after(2, drive(model, scans, "-o", tmp_path / "out"))
    assert {r["status"] for r in told} == {"done"}
    with drive(model, scans, "-o", tmp_path / "out") as driver:
        again = [json.loads(line) for line in driver.stdout]
    assert driver.returncode == 0 and len({r["input"] for r in again}) == len(again) == 10
    statuses = Counter(r["status"] for r in again)
    assert statuses["skipped"] >= 2 and statuses["failed"] == 0
    assert len(results(tmp_path / "out")) == 10 and times_written(tmp_path / "out").total() <= 10 + 2
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.skipif(os.environ.get("FLASHDIFF_LONG") != "1", reason="FLASHDIFF_LONG=1 asks for it")
@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_200_pictures_of_a_bucket_though_the_driver_and_a_worker_are_killed(model, tmp_path):
    pytest.importorskip("s3fs", reason="needs the extra [s3]")
    server = pytest.importorskip("moto.server", reason="needs moto[server]").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "t", "AWS_SECRET_ACCESS_KEY": "t", "AWS_DEFAULT_REGION": "us-east-1"}
    import boto3

    s3 = boto3.client("s3", endpoint_url=env["AWS_ENDPOINT_URL"], aws_access_key_id="t", aws_secret_access_key="t", region_name="us-east-1")
    for bucket in ("scans-in", "scans-out"):
        s3.create_bucket(Bucket=bucket)
    for i in range(200):
        name = tmp_path / "in" / f"{i // 50}" / f"{i:03}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(png(size=(40, 32), seed=i))
        s3.put_object(Bucket="scans-in", Key=f"{i // 50}/{i:03}.png", Body=name.read_bytes())

    def there():
        """Digest of every result, and when it was written."""
        found = [item for page in s3.get_paginator("list_objects_v2").paginate(Bucket="scans-out") for item in page.get("Contents", [])]
        bodies = {item["Key"]: s3.get_object(Bucket="scans-out", Key=item["Key"])["Body"].read() for item in found if FOLDER not in item["Key"]}
        return {item["Key"]: (hashlib.sha256(bodies[item["Key"]]).hexdigest(), item["LastModified"]) for item in found if item["Key"] in bodies}

    try:
        killed_after(25, drive(model, "s3://scans-in", "-o", "s3://scans-out", env=env))
        before = there()
        assert 25 <= len(before) < 200
        with drive(model, "s3://scans-in", "-o", "s3://scans-out", "--csv", tmp_path / "all.csv", env=env) as driver:
            told = [json.loads(driver.stdout.readline()) for _ in range(len(before) + 25)]
            os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
            told += [json.loads(line) for line in driver.stdout]
        assert driver.returncode == 0 and len({r["input"] for r in told}) == len(told) == 200
        assert {r["status"] for r in told} == {"done", "skipped"}
        after = there()
        assert all(after[key] == value for key, value in before.items())  # nothing that was done is done again
        journal = [item["Key"] for item in s3.list_objects_v2(Bucket="scans-out").get("Contents", []) if FOLDER in item["Key"]]
        assert len(journal) == 4  # one in each folder
        assert len((tmp_path / "all.csv").read_text().splitlines()) == 201
        command = [sys.executable, "-m", "flashdiff_cli.commands.app", "restore", tmp_path / "in", "-o", tmp_path / "alone", "-r", "-q"]
        command += ["--model", model, "--start-step", "2", "--device", "cpu"]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}, stdout=subprocess.DEVNULL)
        assert done.returncode == 0
        assert {key: digest for key, (digest, _) in after.items()} == results(tmp_path / "alone")
    finally:
        server.stop()
