"""Pictures of a folder in one run: what each would get alone, one picture's failure stays its own, and nothing is lost or grows."""

import json
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model

import flashdiff
from flashdiff_cli.classifier import KINDS, Degradation
from flashdiff_cli.diagnosis import Diagnosis
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.operators import GaussianBlur, Identity
from flashdiff_cli.pictures.files import from_pil
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.runs import executor
from flashdiff_cli.runs.entries import NAME
from flashdiff_cli.runs.executor import each
from flashdiff_cli.runs.inputs import Job, find, with_targets
from flashdiff_cli.runs.journal import Journal
from flashdiff_cli.runs.memory import most_together
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.runs.resume import Claims
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.runs.task import Shown, Task
from flashdiff_cli.severity import SeverityEncoder

TOLD = {"operator": "gaussian-blur", "operator_options": {"blur_std": 1.0}, "noise_std": 0.03}
CLOSE = 2 / 255
"""On [-1, 1], one level of 255: a conjugate gradient may take a step more or less by the order in which numbers are added up, and eight rounds of a
path that is believed carry that on (0.0052 in bfloat16)."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 20, "eta": 0.0})


@pytest.fixture(scope="module")
def restorer(model):
    """With all that a model can have, and a classifier that goes by the brightness of a picture."""
    found = Restorer(model)
    parts = {}
    for seed, name in enumerate(("last_step", "last_step_mixed")):
        torch.manual_seed(seed)
        parts[name] = LastStep(channels=(8, 12), blocks=(1, 1)).eval().requires_grad_(False)
        torch.nn.init.normal_(parts[name].leave.weight, std=0.02)
    found.pipeline.register_modules(**parts)
    found.pipeline.defaults = found.pipeline.defaults.read({**found.pipeline.defaults.to_dict(), "fidelity": True})
    return found


def of_brightness(self, measurement):
    """What a classifier says: the kind by the mean, sixths of the range from black to white."""
    place = min(int((measurement.mean().item() + 1) * 3), 5)
    parameters = torch.tensor([[-3.5, 0.2, 1.5, 0.6, 0.8, 0.3, 0.6]])
    return Degradation(torch.full((1, 6), 0.02) + 0.88 * (torch.arange(6) == place), parameters)


def pixels(seed=0, size=(48, 40), kind="gaussian-blur", depth=12):
    """A picture of a brightness that stands for a kind."""
    middle = int((KINDS.index(kind) + 0.5) * 255 / 6)
    coarse = np.random.default_rng(seed).integers(middle - depth, middle + depth, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def picture(*given, **more):
    found = from_pil(Image.fromarray(pixels(*given, **more)))
    found.digest = bytes([given[0] if given else 0]) * 32
    return found


def together(restorer, pictures, settings, batch):
    """What comes of all pictures, by their numbers, and the sizes of the runs."""
    sizes, call, pool, found = [], restorer.pipeline, restorer.together(settings, batch), {}
    pool.pipeline = lambda measurement, *given, **named: sizes.append(len(measurement)) or call(measurement, *given, **named)
    vars(pool.pipeline).update(stage=call.stage, encoders=call.encoders)
    for number, one in enumerate(pictures):
        for done in pool.add(one, str(number), tag=number):
            found |= {wanted.tag: outcome for wanted, outcome in done}
    for done in pool.rest():
        found |= {wanted.tag: outcome for wanted, outcome in done}
    return [found[number] for number in range(len(pictures))], sizes


def what(record):
    """All that a record says but times, with numbers that may be rounded differently."""
    values = json.loads(record.to_json())
    close = {name: values.pop(name) for name in ("severity", "variance", "kept_detail")}
    values.pop("seconds")
    return values, {k: pytest.approx(v, rel=1e-3, abs=1e-5) for k, v in close.items()}


def check_same(alone, found, exact=False):
    for (restored, record), (other, told) in zip(alone, found, strict=True):
        if exact:
            assert torch.equal(restored.image, other.image)
        torch.testing.assert_close(other.image, restored.image, rtol=0, atol=CLOSE)
        assert what(told) == what(record)


@pytest.mark.parametrize("given", [TOLD, {"start_step": 3}, {"operator": "random-inpainting", "operator_options": {"kept_fraction": 0.3}}, {}])
def test_pictures_together_get_what_each_gets_alone(restorer, given):
    settings, pictures = Settings(**given), [picture(i, depth=4 + 12 * i) for i in range(5)]
    alone = [restorer.restore(one, settings, str(i)) for i, one in enumerate(pictures)]
    found, sizes = together(restorer, pictures, settings, 3)
    assert sizes == [3, 2]
    check_same(alone, found)
    # Bit for bit: one by one, and whenever the same pictures share a run.
    check_same(alone, together(restorer, pictures, settings, 1)[0], exact=True)
    check_same(found, together(restorer, pictures, settings, 3)[0], exact=True)


def test_pictures_join_at_their_own_levels(restorer, monkeypatch):
    def local(self, measurement, missing=None, plain=SeverityEncoder.local):
        latent, variance = plain(self, measurement, missing)
        return latent, variance * 300 * measurement.std((1, 2, 3), keepdim=True)

    monkeypatch.setattr(SeverityEncoder, "local", local)
    settings, pictures = Settings(**TOLD), [picture(i, depth=4 + 15 * i) for i in range(4)]
    alone = [restorer.restore(one, settings, str(i)) for i, one in enumerate(pictures)]
    found, sizes = together(restorer, pictures, settings, 4)
    assert sizes == [4] and len({record.start_step for _, record in found}) > 2
    assert all(record.network_evaluations == record.steps == record.start_step for _, record in found)
    check_same(alone, found)


def test_blind_pictures_of_all_kinds_and_sizes_share_runs_with_their_like(restorer, monkeypatch):
    monkeypatch.setattr(FlashDiffusionPipeline, "classify", of_brightness)
    monkeypatch.setattr("flashdiff_cli.pipeline.may_be_noise", lambda measurement, noise_std: torch.tensor([True]))
    # A network of mixtures that was not trained takes away what is no noise.
    monkeypatch.setattr("flashdiff_cli.second_look.hidden_noise", lambda picture, restored: 0.0)
    pictures = [picture(i, size=(24, 32), kind=kind) for i, kind in enumerate([*KINDS, *KINDS])]
    pictures += [picture(i, size=(32, 24)) for i in (12, 13)]
    settings = Settings(variance_multiplier=0.2)
    alone = [restorer.restore(one, settings, str(i)) for i, one in enumerate(pictures)]
    assert [record.degradation["kind"] for _, record in alone] == [*KINDS, *KINDS, "gaussian-blur", "gaussian-blur"]
    found, sizes = together(restorer, pictures, settings, 2)
    assert sizes == [2] * 7
    check_same(alone, found)


def test_tiles_of_several_pictures_share_runs(restorer):
    settings = Settings(tile=64, start_step=2, **TOLD)
    pictures = [picture(i, size=(100, 64)) for i in range(3)]
    alone = [restorer.restore(one, settings, str(i)) for i, one in enumerate(pictures)]
    assert [len(record.tiles) for _, record in alone] == [3, 3, 3]
    found, sizes = together(restorer, pictures, settings, 4)
    assert sizes == [4, 4, 1]
    check_same(alone, found)


def test_diagnoses_that_a_run_treats_differently_do_not_share_one():
    blur = Diagnosis("gaussian-blur", GaussianBlur(1.0), 0.02)
    sure, unsure = (Diagnosis("downsampling", Identity(), 0.02, {"downsampling": p}) for p in (0.9, 0.6))
    several = (blur, blur.with_rounding(0.01), sure, unsure, Diagnosis("noise", Identity(), 0.02))
    assert len({one.treated_as for one in several}) == 5
    joined = Diagnosis.joined([blur.with_rounding(0.01), blur.with_rounding(0.03)], GaussianBlur(1.0))
    assert joined.rounding_std.tolist() == pytest.approx([0.01, 0.03]) and joined.noise_std == 0.03
    assert joined.treated_as == blur.with_rounding(0.02).treated_as and joined.analysis is None


def test_one_picture_s_failure_stays_its_own_wherever_it_fails(restorer, monkeypatch):
    """In looking, in a run that it shares, and by what has come of it."""
    settings, pictures = Settings(start_step=2, **TOLD), [picture(i) for i in range(6)]
    alone = [restorer.restore(one, settings, str(i)) for i, one in enumerate(pictures)]
    call, look = FlashDiffusionPipeline.__call__, Restorer._look
    seeds = [record.seed for _, record in alone]

    def looked(self, one, *given):
        if one is pictures[1]:
            raise FlashdiffError("1: cannot be looked at")
        return look(self, one, *given)

    def called(self, measurement, *given, **named):
        if any(torch.equal(one, pictures[2].image[0]) for one in measurement):
            raise ZeroDivisionError("no such luck")
        result = call(self, measurement, *given, **named)
        result.images[[bool(torch.equal(one, pictures[4].image[0])) for one in measurement]] = float("nan")
        return result

    monkeypatch.setattr(Restorer, "_look", looked)
    monkeypatch.setattr(FlashDiffusionPipeline, "__call__", called)
    found, sizes = together(restorer, pictures, settings, 3)
    # The first three that could be looked at fail together and are done one by one; the other two have a run.
    assert sizes == [3, 1, 1, 1, 2]
    assert [isinstance(one, Exception) for one in found] == [False, True, True, False, True, False]
    assert "looked at" in str(found[1]) and "no such luck" in str(found[2]) and "no numbers" in str(found[4])
    check_same([alone[i] for i in (0, 3, 5)], [found[i] for i in (0, 3, 5)])
    assert seeds == [record.seed for _, record in alone]


def test_a_batch_that_runs_out_of_memory_is_halved_for_good_and_nothing_is_lost(restorer, monkeypatch):
    settings, pictures, call = Settings(start_step=2, **TOLD), [picture(i) for i in range(9)], FlashDiffusionPipeline.__call__
    alone = [restorer.restore(one, settings, str(i)) for i, one in enumerate(pictures)]

    def called(self, measurement, *given, **named):
        if len(measurement) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return call(self, measurement, *given, **named)

    monkeypatch.setattr(FlashDiffusionPipeline, "__call__", called)
    found, sizes = together(restorer, pictures, settings, 4)
    assert sizes == [4, 2, 2, 2, 2, 1]
    check_same(alone, found)


def store(folder, count, bad=()):
    folder.mkdir(parents=True)
    for i in range(count):
        path = folder / f"{i:02}.png"
        Image.fromarray(pixels(i, size=(24, 16) if i % 3 else (16, 24))).save(path)
        if i in bad:
            path.write_bytes(b"no picture")
    return folder


def results(folder):
    return {path.name: np.asarray(Image.open(path), int) for path in folder.glob("[!.]*.png")}


def check_alike(one, other):
    """Files of the same names that show the same; a value may have been rounded the other way."""
    assert one.keys() == other.keys()
    assert all(np.abs(one[name] - other[name]).max() <= 1 for name in one)


def test_a_folder_is_restored_together_in_order_with_its_failures(run, tmp_path):
    source = store(tmp_path / "in", 8, bad=(3,))
    code, alone, _ = run(source, "-o", tmp_path / "alone", "--batch", 1)
    assert code == 1
    code, records, err = run(source, "-o", tmp_path / "out", "--batch", 4, "--csv", tmp_path / "all.csv")
    assert code == 1 and [Path(r["input"]).name for r in records] == [f"{i:02}.png" for i in range(8)], err
    assert [r["status"] for r in records] == ["done"] * 3 + ["failed"] + ["done"] * 4 and "03.png" in records[3]["error"]
    for one, other in zip(alone, records, strict=True):
        assert [one[k] for k in ("seed", "start_step", "network_evaluations", "notes")] == [
            other[k] for k in ("seed", "start_step", "network_evaluations", "notes")
        ]
        assert one["status"] == "failed" or {"read", "write", "total", "severity"} <= other["seconds"].keys()
    check_alike(results(tmp_path / "alone"), results(tmp_path / "out"))
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 9
    # How many there were at once is no setting of a result: nothing is done again for it.
    assert [r["status"] for r in run(source, "-o", tmp_path / "out", "--batch", 2)[1]].count("skipped") == 7


def test_in_place_and_with_what_is_written_besides(run, tmp_path):
    source, expected = store(tmp_path / "in", 3), store(tmp_path / "copy", 3)
    assert run(expected, "-o", tmp_path / "out", "-n", 2, "--severity-map")[0] == 0
    code, records, err = run(source, "--in-place", "--batch", 3, "-n", 2, "--severity-map")
    assert code == 0 and all(len(r["others"]) == 4 for r in records), err
    check_alike(results(tmp_path / "out"), results(source))


def command(model, *arguments):
    fixed = ["--model", str(model), "--start-step", "15", "--batch", "4", "-q"]
    return [sys.executable, "-m", "flashdiff_cli.commands.app", "restore", *map(str, arguments), *fixed]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_leaves_whole_outputs_and_goes_on(model, cli, tmp_path):
    source = store(tmp_path / "in", 12)
    assert cli("restore", source, "-o", tmp_path / "quiet", "--model", model, "--start-step", 15)[0] == 0
    expected, out = results(tmp_path / "quiet"), tmp_path / "out"
    killed = subprocess.Popen(command(model, source, "-o", out))
    while killed.poll() is None and not list(out.glob("[!.]*.png")):
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    found = results(out)
    check_alike(found, {name: expected[name] for name in found})
    code, said, _ = cli("restore", source, "-o", out, "--model", model, "--start-step", 15, "--batch", 4, "--json")
    assert code == 0 and sum(json.loads(line)["status"] == "skipped" for line in said.splitlines()) >= len(found) > 0
    check_alike(results(out), expected)


def test_two_runs_side_by_side_share_a_folder_and_wait_for_nothing_that_waits_for_them(model, tmp_path):
    source, out = store(tmp_path / "in", 12), tmp_path / "out"
    both = [subprocess.Popen([*command(model, source, "-o", out), "--json"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [[json.loads(line) for line in one.communicate(timeout=120)[0].splitlines()] for one in both]
    assert [one.returncode for one in both] == [0, 0] and [len(records) for records in told] == [12, 12]
    assert sum(r["status"] == "done" for records in told for r in records) == 12 and len(results(out)) == 12


def test_stopping_finishes_the_batch_in_hand_and_leaves_the_rest_free(restorer, tmp_path):
    jobs, journal = with_targets(find([store(tmp_path / "in", 10)]), tmp_path / "out"), Journal()
    task, claims, stop, seen = Task(Settings(start_step=2, **TOLD), batch=3, made_with="a"), Claims(journal, "a"), threading.Event(), []

    class Watched(Shown):
        def phase(self, name):
            seen.append(name)
            if "together" in name:
                stop.set()

    before, restorer.batch = restorer.batch, 3
    try:
        records = list(each(jobs, task.work(restorer, journal, Watched()), stopped=stop.is_set, claims=claims))
    finally:
        restorer.batch = before
    # 1, 2 and 4 are of one size; 0 and 3 were looked at, and wait.
    assert [Path(r.input).name for r in records] == ["01.png", "02.png", "04.png"] and {r.status for r in records} == {"done"}
    assert seen.count("looking") == 5 and "3 pictures together, step 2 of 2" in seen
    assert sorted(results(tmp_path / "out")) == ["01.png", "02.png", "04.png"] and not claims._held
    assert not list((tmp_path / "out").glob("*.part")) and (tmp_path / "out" / NAME).is_file()


@pytest.mark.parametrize("batch", [1, 8])
def test_stopping_finishes_a_large_picture_some_of_whose_tiles_are_done(restorer, tmp_path, batch):
    """Ten tiles in batches of eight: two wait when the run is stopped."""
    folder = store(tmp_path / "in", 1)
    large = next(iter(Path(folder).iterdir()))
    Image.open(large).resize((768, 300)).save(large)
    jobs, journal, stop = with_targets(find([folder]), tmp_path / "out"), Journal(), threading.Event()
    task = Task(Settings(start_step=1, tile=192, **TOLD), batch=batch, made_with="a")

    class Watched(Shown):
        def phase(self, name):
            if "severity" in name:
                stop.set()

    before, restorer.batch = restorer.batch, batch
    try:
        records = list(each(jobs, task.work(restorer, journal, Watched()), stopped=stop.is_set, claims=Claims(journal, "a")))
    finally:
        restorer.batch = before
    assert [r.status for r in records] == ["done"] and len(records[0].tiles) > 8


def test_an_error_as_results_are_handed_out_is_that_picture_s_alone(restorer, monkeypatch):
    from flashdiff_cli.runs import together

    made, failed = together.figures, []

    def figures(result, number=0):
        if number == 1 and not failed:
            failed.append(number)
            raise MemoryError("no room for it")
        return made(result, number)

    monkeypatch.setattr(together, "figures", figures)
    given = [Image.fromarray(pixels(seed)) for seed in range(4)]
    found = list(flashdiff_many(restorer, given))
    assert [isinstance(outcome, Exception) for outcome in found] == [False, True, False, False]


def test_a_picture_two_of_whose_tiles_fail_in_one_batch_fails_once(restorer, monkeypatch):
    from flashdiff_cli.runs import together

    def figures(result, number=0):
        raise MemoryError("no room for it")

    monkeypatch.setattr(together, "figures", figures)
    pool = restorer.together(Settings(start_step=1, tile=192, **TOLD), 4)
    large = from_pil(Image.fromarray(pixels()).resize((768, 300)))
    done = [outcome for finished in (*pool.add(large), *pool.rest()) for _, outcome in finished]
    assert len(done) == 1 and isinstance(done[0], MemoryError)


@pytest.mark.parametrize("device, most", [("cpu", 1), ("mps", 1), ("cuda", 64)])
def test_only_where_free_memory_is_known_several_are_read_ahead(device, most):
    assert most_together(torch.device(device)) == most


def flashdiff_many(restorer, pictures):
    pool, outcomes = restorer.together(Settings(start_step=1, **TOLD), 4), {}
    for number, picture in enumerate(pictures):
        for done in pool.add(from_pil(picture), tag=number):
            outcomes |= {wanted.tag: outcome for wanted, outcome in done}
    for done in pool.rest():
        outcomes |= {wanted.tag: outcome for wanted, outcome in done}
    return [outcomes[number] for number in range(len(pictures))]


class Counting:
    """Work that keeps `together` pictures, and counts those that are alive."""

    def __init__(self, together, alive):
        self.together, self.alive, self.kept, self.most = together, alive, [], 0

    def add(self, job, picture):
        self.alive.add(picture)
        self.kept.append((job, picture))
        self.most = max(self.most, len(self.alive))
        if len(self.kept) == self.together:
            yield self._done()

    def rest(self):
        if self.kept:
            yield self._done()

    def _done(self):
        done, self.kept = self.kept, []
        return [(job, (Record(str(job.source)), lambda record, kept=picture: time.sleep(0.002))) for job, picture in done]


@pytest.mark.parametrize("together", [1, 4])
def test_memory_does_not_grow_with_the_run(tmp_path, together):
    class Held:
        size = (16, 24)

    class Made(Job):
        def read(self):
            return Held()

    jobs = [Made(Path(f"{i}.png"), f"{i}.png") for i in range(60)]
    work = Counting(together, weakref.WeakSet())
    records = list(each(jobs, work))
    assert [r.input for r in records] == [f"{i}.png" for i in range(60)]
    # Those that wait to be written, one more, and those that are computed.
    assert work.most <= 2 * together + 2


def test_large_pictures_are_not_read_far_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "PIXELS", 16 * 24)
    jobs, read = [Job(tmp_path / f"{i}.png", f"{i}.png") for i in range(8)], []
    store(tmp_path / "in", 1)
    for job in jobs:
        Image.fromarray(pixels(0, size=(24, 16))).save(job.source)
    monkeypatch.setattr(Job, "read", lambda job, plain=Job.read: read.append(job) or plain(job))
    ahead = []

    class Slow(Counting):
        def add(self, job, picture):
            time.sleep(0.03)
            ahead.append(len(read) - jobs.index(job) - 1)
            yield [(job, (Record(str(job.source)), None))]

    assert len(list(each(jobs, Slow(6, weakref.WeakSet())))) == 8
    assert max(ahead) == 1


def test_many_in_memory_share_runs_too_and_come_in_order(model, tmp_path):
    sizes = [(24, 16), (16, 24), (24, 16), (24, 16), (16, 24)]
    arrays = [pixels(i, size=size) for i, size in enumerate(sizes)]
    sources = [*arrays[:2], tmp_path / "none.png", *arrays[2:]]
    found = list(flashdiff.restore_many(iter(sources), model=model, batch=3, start_step=2))
    assert [record.status for _, record in found] == ["done", "done", "failed", "done", "done", "done"]
    for array, (restored, record) in zip(arrays, [one for one in found if one[0] is not None], strict=True):
        alone, own = flashdiff.restore(array, model=model, start_step=2)
        assert restored.shape == array.shape and np.abs(restored.astype(int) - alone.astype(int)).max() <= 1
        assert (record.seed, record.degradation) == (own.seed, own.degradation)
