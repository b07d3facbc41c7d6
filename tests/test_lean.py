"""What a start of the program imports, and what it leaves out."""

import os
import subprocess
import sys

import pytest
from PIL import Image
from tiny import save_tiny_model

PROGRAM = """
import sys
from flashdiff_cli.commands.app import main
try:
    main({arguments!r})
except SystemExit as leave:
    assert not leave.code, leave.code
{then}
"""
LEFT_OUT = ("diffusers.models.autoencoders.autoencoder_kl_wan", "diffusers.models.unets.unet_3d_condition")


def in_a_new_process(arguments, then):
    code = PROGRAM.format(arguments=[str(a) for a in arguments], then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lean")
    save_tiny_model(folder / "model")
    Image.new("RGB", (40, 24), (90, 120, 30)).save(folder / "a.png")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "list"],
        ["restore", "{0}/a.png", "-m", "{0}/model", "--dry-run", "--operator", "gaussian-blur", "--blur-std", "1", "-n", "2", "--severity-map"],
        ["restore", "{0}/a.png", "-m", "{0}/model", "--dry-run", "--json", "--report", "{0}/a.html", "--csv", "{0}/a.csv"],
    ],
)
def test_what_computes_nothing_needs_no_torch(folder, arguments):
    out = in_a_new_process([a.format(folder) for a in arguments], "assert 'torch' not in sys.modules")
    assert "a-restored.png" in out or "celebahq-256" in out


def test_a_restoration_leaves_out_what_it_does_not_use_and_all_of_it_can_still_be_imported(folder):
    checks = f"""
loaded = [name for name in {LEFT_OUT!r} if name in sys.modules]
assert not loaded, loaded
assert 'torch' in sys.modules and 'diffusers.models.autoencoders.autoencoder_dc' in sys.modules
import scipy.stats
assert abs(scipy.stats.norm.cdf(0) - 0.5) < 1e-9
from diffusers.models.autoencoders import AutoencoderTiny
from diffusers.models.transformers import Transformer2DModel
import diffusers.models.autoencoders as package
assert package.AutoencoderTiny is AutoencoderTiny and type(package).__name__ == 'module'
try:
    package.no_such_name
except AttributeError:
    pass
else:
    raise AssertionError
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
print(DiffusionPipeline.progress_bar.__name__)
"""
    out = in_a_new_process(["restore", folder / "a.png", "-m", folder / "model", "-q", "--start-step", "1", "--overwrite"], checks)
    assert "progress_bar" in out and (folder / "a-restored.png").exists()


def test_the_compiler_and_transformers_are_stood_in_for_until_they_are_asked_for(folder):
    checks = """
import gc
assert gc.isenabled() and gc.get_freeze_count() > 10_000
assert "torch._dynamo" not in sys.modules and "transformers" not in sys.modules
import torch
from diffusers.pipelines import pipeline_loading_utils as loading
from diffusers.utils.torch_utils import is_compiled_module
assert not is_compiled_module(torch.nn.Linear(1, 1)) and "torch._dynamo" not in sys.modules
assert is_compiled_module(torch.compile(torch.nn.Linear(1, 1)))
import transformers
from transformers.utils import SAFE_WEIGHTS_NAME, WEIGHTS_NAME
assert loading.transformers.__version__ == transformers.__version__
assert (loading.TRANSFORMERS_SAFE_WEIGHTS_NAME, loading.TRANSFORMERS_WEIGHTS_NAME) == (SAFE_WEIGHTS_NAME, WEIGHTS_NAME)
model = transformers.CLIPTextModel(transformers.CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
assert isinstance(model, loading.PreTrainedModel) and issubclass(type(model), loading.PreTrainedModel)
assert not isinstance(3, loading.PreTrainedModel)
print(loading.PreTrainedModel.base_model_prefix == "")
"""
    out = in_a_new_process(["restore", folder / "a.png", "-m", folder / "model", "-q", "--start-step", "1", "--overwrite"], checks)
    assert "True" in out


SLOW = """
import threading, time
import lean_submodule_marker
time.sleep(0.2)
if not lean_submodule_marker.ready:
    early = 1
    raise OSError("not yet")
from . import below
late = 2
"""


def test_a_deferred_package_is_executed_once_for_all_threads_and_again_after_a_failure(tmp_path):
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "__init__.py").write_text(SLOW)
    (tmp_path / "slow" / "below.py").write_text("value = 3\n")
    (tmp_path / "lean_submodule_marker.py").write_text("ready = False\n")
    code = """
import sys, threading
from flashdiff_cli import lean
lean.DEFERRED = ("slow",)
lean.install()
lean.install()
assert sum(isinstance(finder, lean._Finder) for finder in sys.meta_path) == 1
import slow.below
assert slow.below.value == 3 and "lean_submodule_marker" not in sys.modules
for _ in range(2):
    try:
        slow.late
    except OSError:
        pass
    else:
        raise AssertionError
    assert "early" not in vars(slow) and slow.below.value == 3
import lean_submodule_marker
lean_submodule_marker.ready = True
found = []
threads = [threading.Thread(target=lambda: found.append(slow.late)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert found == [2] * 4, found
assert type(slow).__name__ == "module" and "_executing" not in vars(slow)
assert not hasattr(slow, "no_such_name")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=with_path(tmp_path))
    assert done.returncode == 0, done.stderr


END = """
import atexit, os, sys, threading, time
from flashdiff_cli.commands import app
class Slow:
    def __del__(self, write=os.write):
        write(1, b"taken apart\\n")
sys.kept = Slow()
{before}
sys.argv = ["flashdiff", *{arguments!r}]
def late():
    time.sleep(0.3)
    print("a thread")
try:
    app.main()
finally:
    atexit.register(lambda: print("at the exit"))
    threading.Thread(target=late).start()
"""


@pytest.mark.parametrize(
    ("arguments", "before", "code", "end"),
    [
        (["--version"], "", 0, ""),
        (["no-such"], "", 2, ""),
        (["--version"], "from flashdiff_cli.commands import program; program.run = lambda arguments: 1 / 0", 1, "taken apart\n"),
    ],
)
def test_at_the_end_threads_and_handlers_are_done_and_nothing_is_taken_apart(arguments, before, code, end):
    done = subprocess.run([sys.executable, "-c", END.format(arguments=arguments, before=before)], capture_output=True, text=True)
    assert done.returncode == code and done.stdout.endswith("a thread\nat the exit\n" + end), (done.stdout, done.stderr)


def with_path(folder):
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}
