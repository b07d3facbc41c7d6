"""Checkpoints that carry more than weights: inert classes pass, code never runs."""

import collections
import datetime
import io
import os
import pathlib
import pickle
import subprocess
import sys
import types

import pytest
import torch

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.unpickle import Placeholder, load_checkpoint, state_dict


class Attack:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def save(tmp_path, value, zipped=True):
    path = tmp_path / "model.ckpt"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda mark: Attack(os.system, f"touch {mark}"),
        lambda mark: Attack(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: Attack(subprocess.Popen, ["touch", str(mark)]),
        lambda mark: Attack(getattr, os, "system"),
        lambda mark: Attack(__import__, "os"),
        lambda mark: Attack(open, str(mark), "w"),
        lambda mark: Attack(pickle.loads, b"."),
    ],
    ids=["os.system", "eval", "Popen", "getattr", "import", "open", "pickle"],
)
def test_code_is_refused_and_does_nothing(tmp_path, make, zipped):
    mark = tmp_path / "mark"
    attack = make(mark)
    if attack.call[0] is getattr:
        attack.call = (getattr, ("x", "upper"))
    path = save(tmp_path, {"state_dict": {"a": torch.ones(2)}, "hook": attack}, zipped)
    with pytest.raises(FlashdiffError, match="refused, nothing was run.*(system|eval|Popen|getattr|import|open|loads)") as found:
        load_checkpoint(path)
    assert str(path) in str(found.value) and "\n" not in str(found.value)
    assert not mark.exists()


def test_code_in_a_library_is_not_imported_and_not_called(tmp_path, monkeypatch):
    module = types.ModuleType("innocent_library")
    calls = []

    def call(*args):
        calls.append(args)

    call.__module__, call.__qualname__ = "innocent_library", "call"
    module.call = call
    monkeypatch.setitem(sys.modules, "innocent_library", module)
    path = save(tmp_path, {"a": torch.ones(2), "hook": Attack(call, 1)})
    monkeypatch.delitem(sys.modules, "innocent_library")
    found = load_checkpoint(path)
    assert not calls and isinstance(found["hook"], Placeholder)
    assert "innocent_library" not in sys.modules


def test_python_2_names_are_no_way_around(tmp_path):
    stream = io.BytesIO(b"c__builtin__\neval\n(S'1'\ntR.")
    path = tmp_path / "old.ckpt"
    path.write_bytes(stream.getvalue())
    with pytest.raises(FlashdiffError, match="old.ckpt"):
        load_checkpoint(path)
    direct = io.BytesIO(b"c__builtin__\neval\n.")
    from flashdiff_cli.hub.unpickle import _Unpickler

    with pytest.raises(pickle.UnpicklingError, match="eval"):
        _Unpickler(direct).load()


@pytest.mark.parametrize("zipped", [True, False])
def test_honest_training_state_passes(tmp_path, zipped):
    weights = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.nn.Parameter(torch.ones(2)), "c": torch.ones(1, dtype=torch.bfloat16)}
    extra = {
        "path": pathlib.PurePosixPath("/data/x"),
        "when": datetime.datetime(2022, 1, 1),
        "counts": collections.defaultdict(int, {"x": 1}),
        "set": {1, 2},
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
    }
    found = load_checkpoint(save(tmp_path, {"state_dict": collections.OrderedDict(weights), "callbacks": extra}, zipped))
    tensors = state_dict(found, "x")
    assert all(torch.equal(tensors[k], v) for k, v in weights.items())
    assert found["callbacks"]["set"] == {1, 2} and found["callbacks"]["size"] == (1, 2)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 broken", pickle.dumps([1, 2]), pickle.dumps({"a": 1})[:-3]], ids=range(5))
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path, content):
    path = tmp_path / "bad.ckpt"
    path.write_bytes(content)
    with pytest.raises(FlashdiffError, match="bad.ckpt") as found:
        state_dict(load_checkpoint(path), path)
    assert "\n" not in str(found.value)


def test_other_errors(tmp_path):
    with pytest.raises(FlashdiffError, match="cannot read"):
        load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(FlashdiffError, match="is a folder"):
        load_checkpoint(tmp_path)
    with pytest.raises(FlashdiffError, match="no tensors"):
        state_dict({"state_dict": {"a": 1}}, "x.ckpt")
    program = tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), program)
    with pytest.raises(FlashdiffError, match="TorchScript"):
        load_checkpoint(program)
    half = save(tmp_path, {"a": torch.ones(1000)})
    half.write_bytes(half.read_bytes()[:2000])
    with pytest.raises(FlashdiffError, match="damaged"):
        load_checkpoint(half)
