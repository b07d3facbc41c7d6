"""What a server does behind its page and API: choices that are checked, a queue with bounds, a worker that may die; on a tiny model."""

import io
import os
import shlex
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from picture_files import png
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.serve.choices import Choices, offered, safe_name
from flashdiff_cli.serve.service import Broken, Busy, Ending, Service, TimeUp
from flashdiff_cli.serve.worker import Model, Task, work


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 40, "eta": 0.0})


@pytest.fixture(scope="module")
def service(model):
    found = Service(Model(str(model), megapixels=0.1), waiting=3, seconds=120)
    found.start()
    yield found
    found.close()


def image(data):
    return np.asarray(Image.open(io.BytesIO(data)))


FAST = Choices(operator="gaussian-blur", options={"blur_std": 1.0}, fast=True)


def test_every_operator_without_files_and_networks_is_offered():
    assert set(offered()) == {name for name in OPERATORS if name not in ("nonlinear-blur", "composition")}
    assert all(option.name not in ("mask_file", "kernel_file", "weights") for options in offered().values() for option in options)


def test_choices_are_read_from_text():
    read = Choices.read({"operator": "jpeg", "jpeg_quality": "30", "scale": "2", "fast": "true", "seed": "7", "noise_std": "", "format": ".JPG"})
    assert read == Choices(operator="jpeg", options={"jpeg_quality": 30.0}, scale=2, fast=True, seed=7, format="jpg")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"operator": "nonlinear-blur"}, "not offered"),
        ({"operator": "gaussian-blur+nonsense"}, "nonsense"),
        ({"weights": "owner/name"}, "weights"),
        ({"mask_file": "/etc/passwd"}, "mask_file"),
        ({"model": "elsewhere"}, "model"),
        ({"blur_std": "wide"}, "blur_std"),
        ({"scale": "9"}, "scale"),
        ({"scale": "2.5"}, "scale"),
        ({"noise_std": "nan"}, "noise_std"),
        ({"seed": "1e400"}, "seed"),
        ({"fast": "maybe"}, "fast"),
        ({"format": "exe"}, "format"),
        ({"\x1b[2J": "1"}, "x1b"),
    ],
)
def test_what_makes_no_sense_is_named(values, said):
    with pytest.raises(UsageError, match=said) as error:
        Choices.read(values)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("photo.png", "photo.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a b.jpg", "a b.jpg"),
        ("", "picture"),
        ("..", "picture"),
        ("a\nb\x1b.png", "a\\nb\\x1b.png"),
        ("x" * 500 + ".png", "x" * 200 + ".png"),
    ],
)
def test_names_of_uploads_are_made_harmless(sent, kept):
    assert safe_name(sent) == kept


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63) + 1, 2**53 + 1])
def test_seeds_beyond_what_floats_hold_are_taken(seed):
    assert Choices.read({"seed": str(seed)}).seed == Choices.read({"seed": seed}).seed == seed
    for wrong in (2.5, "2.5", 2**63, str(2**63), "nan"):
        with pytest.raises(UsageError, match="seed"):
            Choices.read({"seed": wrong})


def test_the_command_line_is_what_a_shell_reads():
    choices = Choices(operator="gaussian-blur", options={"blur_std": 1.5}, noise_std=0.05, scale=2, fast=True, seed=3, variance_multiplier=1.25)
    words = shlex.split(choices.command("-my photo's.png", ("mask",)))
    assert words[:3] == ["flashdiff", "restore", "./-my photo's.png"]
    assert shlex.join(words[3:]) == (
        "--operator gaussian-blur --blur-std 1.5 --mask mask.png --noise-std 0.05 --scale 2 --variance-multiplier 1.25 --fast --seed 3"
    )


def test_an_answer_is_what_the_command_line_writes(service, model, cli, tmp_path, monkeypatch):
    """The bytes are equal, with a mask, a map and another format."""
    hole = Image.new("L", (24, 16), 255)
    hole.paste(0, (4, 4, 10, 9))
    hole.save(tmp_path / "mask.png")
    (tmp_path / "a b.jpg").write_bytes(png(kind="JPEG"))
    choices = Choices(severity_map=True, format="png", seed=5, variance_multiplier=1.5)
    task = Task("a b.jpg", (tmp_path / "a b.jpg").read_bytes(), choices, {"mask": (tmp_path / "mask.png").read_bytes()})
    answer = service.submit(task).future.result(120)
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*shlex.split(answer.command)[1:])
    assert code == 0, err
    assert answer.name == "a b-restored.png" and (tmp_path / answer.name).read_bytes() == answer.data
    assert answer.severity_map is not None and (tmp_path / "a b-restored-severity.png").read_bytes() == answer.severity_map
    assert answer.record["operator"]["mask_file"] == "mask.png" and answer.record["input"] == "a b.jpg"


def test_progress_counts_the_steps(service):
    steps = []
    choices = Choices(operator="gaussian-blur", options={"blur_std": 1.0}, variance_multiplier=100.0)
    answer = service.submit(Task("a.png", png(), choices), lambda *step: steps.append(step)).future.result(120)
    assert steps[-1][0] == steps[-1][1] == answer.record["steps"] > 0


def test_what_a_page_shows_has_one_size(service):
    answer = service.submit(Task("a.png", png(), Choices(scale=2, fast=True), shown=True)).future.result(120)
    before, after = (Image.open(io.BytesIO(data)) for data in (answer.before, answer.after))
    assert before.format == after.format == "JPEG" and before.size == after.size == (48, 32)


@pytest.mark.parametrize(
    ("data", "choices", "error", "said"),
    [
        (b"no picture at all", Choices(), FlashdiffError, "a.png: not a picture"),
        (b"", Choices(), FlashdiffError, "empty"),
        (png()[:60], Choices(), FlashdiffError, "a.png"),
        (png((400, 300)), Choices(), FlashdiffError, "more pixels"),
        (png(), Choices(operator="gaussian-blur", options={"jpeg_quality": 4.0}), UsageError, "jpeg_quality"),
        (png(), Choices(operator="mask-inpainting"), UsageError, "mask_file"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_next_is_done(service, data, choices, error, said):
    with pytest.raises(error, match=said):
        service.submit(Task("a.png", data, choices)).future.result(120)
    assert service.submit(Task("a.png", png(), FAST)).future.result(120).record["status"] == "done"


def test_a_mask_of_another_size_names_no_folder_of_the_server(service):
    with pytest.raises(FlashdiffError, match="24 x 16") as error:
        service.submit(Task("a.png", png(), Choices(), {"mask": png((5, 5))})).future.result(120)
    assert "/" not in str(error.value)


def stopped(service):
    """Stop the worker as if it were in the middle of something; returns its number."""
    number = service.workers[0].process.pid
    os.kill(number, signal.SIGSTOP)
    return number


def test_the_queue_is_bounded_and_those_who_leave_make_room(service):
    number = stopped(service)
    try:
        jobs = [service.submit(Task("a.png", png(seed=i), FAST)) for i in range(4)]
        with pytest.raises(Busy, match="wait already"):
            service.submit(Task("a.png", png(), FAST))
        deadline = time.monotonic() + 60
        while service.status()["running"] == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert service.before(jobs[0]) == 0 and service.before(jobs[3]) == 3 and service.status()["waiting"] == 3
        assert jobs[1].future.cancel()
        late = service.submit(Task("a.png", png(), FAST))
    finally:
        os.kill(number, signal.SIGCONT)
    assert all(job.future.result(120).record["status"] == "done" for job in (jobs[0], jobs[2], jobs[3], late))


def test_a_worker_that_dies_of_a_picture_is_replaced(service):
    number = stopped(service)
    job, waiting = (service.submit(Task("a.png", png(), FAST)) for _ in range(2))
    while service.status()["running"] == 0:
        time.sleep(0.01)
    os.kill(number, signal.SIGKILL)
    with pytest.raises(Broken, match="the worker ended"):
        job.future.result(120)
    assert waiting.future.result(120).record["status"] == "done" and service.workers[0].process.pid != number


def test_a_picture_that_takes_too_long_is_given_up(service, monkeypatch):
    monkeypatch.setattr(service, "seconds", 0.3)
    number = stopped(service)
    with pytest.raises(TimeUp, match=r"0\.3 seconds"):
        service.submit(Task("a.png", png(), FAST)).future.result(120)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    monkeypatch.setattr(service, "seconds", 120)
    assert service.submit(Task("a.png", png(), FAST)).future.result(120).record["status"] == "done"


def test_a_worker_that_cannot_be_started_again_is_the_servers_fault(service, monkeypatch):
    model = service.workers[0].model
    os.kill(service.workers[0].process.pid, signal.SIGKILL)
    service.workers[0].process.join(60)
    with monkeypatch.context() as patch, pytest.raises(Broken, match="cannot be started again"):
        patch.setattr(service.workers[0], "model", replace(model, name="/nowhere/at all"))
        service.submit(Task("a.png", png(), FAST)).future.result(120)
    assert service.submit(Task("a.png", png(), FAST)).future.result(120).record["status"] == "done"


def test_the_command_line_names_what_the_server_was_told(model, tmp_path):
    answer = work(Task("a.png", png(), FAST), Restorer(str(model), "cpu", "bfloat16"), 256, str(tmp_path), lambda done, total: None)
    assert answer.command.endswith(f"--model {model} --tile 256 --dtype bfloat16")


def test_closing_tells_those_who_wait_and_ends_the_workers(service):
    """The last test of the file: it ends the service that the others had."""
    number = stopped(service)
    jobs = [service.submit(Task("a.png", png(), FAST)) for _ in range(2)]
    while service.status()["running"] == 0:
        time.sleep(0.01)
    service.close()
    assert jobs[1].future.cancelled()
    with pytest.raises(Ending, match="the server is ending"):
        jobs[0].future.result(60)
    with pytest.raises(Ending):
        service.workers[0].start()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    with pytest.raises(Ending):
        service.submit(Task("a.png", png(), FAST))
    for thread in service._threads:
        thread.join(10)
        assert not thread.is_alive()
