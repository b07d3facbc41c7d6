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
LEFT_OUT = ("torch._dynamo", "sympy", "diffusers.models.autoencoders.autoencoder_kl_wan", "diffusers.models.unets.unet_3d_condition")


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
import torch, diffusers.utils.torch_utils as utils
assert not utils.is_compiled_module(torch.nn.Linear(1, 1))
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
import torch._dynamo
print(DiffusionPipeline.progress_bar.__name__)
"""
    out = in_a_new_process(["restore", folder / "a.png", "-m", folder / "model", "-q", "--start-step", "1", "--overwrite"], checks)
    assert "progress_bar" in out and (folder / "a-restored.png").exists()


def test_the_compiler_is_still_told_what_to_leave_alone():
    code = """
import sys
from flashdiff_cli import lean
lean.install()
lean.install()
assert sum(isinstance(finder, lean._Finder) for finder in sys.meta_path) == 1
from torch import compiler
usual, told = compiler.disable, []
compiler.disable = lambda function, *given, **named: told.append((function.__name__, given, named)) or function
decorate = lean._left_to_the_compiler(compiler.disable)

@decorate
def plain():
    return 1

@decorate(recursive=False)
def with_settings(x):
    return x

assert plain() == 1 and with_settings(2) == 2 and told == []
sys.modules[lean.COMPILER] = sys.modules['sys']
assert plain() == 1 and with_settings(x=2) == 2
assert told == [('plain', (), {}), ('with_settings', (), {'recursive': False})], told
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
