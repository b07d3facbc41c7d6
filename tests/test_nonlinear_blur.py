"""The blur network, its loading and its conversion, with random weights."""

import pytest
import torch
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub import network as hub_network
from flashdiff_cli.hub.network import allow_network
from flashdiff_cli.models.kernel_wizard import convert_state_dict
from flashdiff_cli.operators import NonlinearBlur
from flashdiff_cli.operators.blur_network import BlurNetwork
from flashdiff_cli.operators.nonlinear_blur import load_network
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.runs.settings import Settings

SIZES = {
    "in_channels": 3,
    "channels": 4,
    "front_blocks": 1,
    "back_blocks": 3,
    "code_channels": 7,
    "adapter_channels": [4, 6, 5],
    "expand_channels": 2,
}


def network(**changes):
    torch.manual_seed(0)
    return BlurNetwork(**(SIZES | changes))


def original(model):
    """The state dict of a network under the names of the public checkpoint, written out by hand."""
    state, back = {}, model.config.back_blocks
    for key, value in model.state_dict().items():
        part, *rest = key.split(".")
        kind = rest[-1]
        if part == "features":
            name = f"feature_extractor.{ {'0': 0, '1': 2, '2': 4}[rest[0]] }"
        elif part == "front":
            name = f"feature_extractor.{6 + int(rest[0])}.{rest[1]}"
        elif part == "back":
            name = f"recon_trunk.{rest[0]}.{rest[1]}"
        elif part in ("expand", "last"):
            name = f"recon_trunk.{back + {'expand0': 0, 'expand1': 3, 'last0': 6, 'last1': 8}[part + rest[0]]}"
        else:
            number = 0 if part == "down" and rest[0] == "0" else 1
            name = "adapter.model" + ".submodule" * int(rest[0]) + f".{part}.{number}"
        state[f"{name}.{kind}"] = value
    state["kernel_extractor.model.1.weight"] = torch.zeros(2, 6, 7, 7)
    return state


@pytest.fixture
def state():
    return original(network())


def test_conversion_reads_all_sizes_from_the_tensors(state):
    config, converted = convert_state_dict(state)
    assert config == SIZES
    again = BlurNetwork(**config)
    again.load_state_dict(converted)
    image, code = torch.rand(2, 3, 32, 64), torch.randn(2, 7, 1, 2)
    assert torch.equal(again(image, code), network()(image, code))


@pytest.mark.parametrize(
    "name",
    [
        "feature_extractor.0.weight",
        "recon_trunk.1.conv2.bias",
        "adapter.model.submodule.submodule.up.1.weight",
        "recon_trunk.11.weight",
    ],
)
def test_a_missing_tensor_is_named(state, name):
    del state[name]
    with pytest.raises(FlashdiffError, match=f"^tensor {name} is missing"):
        convert_state_dict(state)


@pytest.mark.parametrize("name", ["something.weight", "adapter.model.down.0.bias", "recon_trunk.12.weight"])
def test_a_tensor_too_many_is_named(state, name):
    state[name] = torch.zeros(4)
    with pytest.raises(FlashdiffError, match=f"^tensor {name} has no place"):
        convert_state_dict(state)


@pytest.mark.parametrize(
    "name, shape, reason",
    [
        ("feature_extractor.2.weight", (4, 5, 3, 3), r"\(4, 5, 3, 3\), not \(4, 4, 3, 3\)"),
        ("adapter.model.submodule.up.1.weight", (11, 4, 4, 4), r"\(11, 4, 4, 4\), not \(12, 4, 4, 4\)"),
        ("recon_trunk.9.bias", (1, 2), "which no convolution has"),
        ("adapter.model.submodule.submodule.up.1.weight", (5, 6, 4, 4), "no channels for the kernel code"),
    ],
)
def test_a_misshapen_tensor_is_named(state, name, shape, reason):
    state[name] = torch.zeros(shape)
    with pytest.raises(FlashdiffError, match=f"^tensor {name} .*{reason}"):
        convert_state_dict(state)


def test_an_empty_checkpoint_is_refused():
    with pytest.raises(FlashdiffError, match="is missing .* is this a KernelWizard checkpoint"):
        convert_state_dict({})


@pytest.mark.parametrize("size", [(32, 64), (40, 33), (5, 90), (1, 1)], ids=str)
def test_any_size_goes_through_and_the_code_steers_the_blur(size):
    codes = torch.randn(2, 7, 2, 2, generator=torch.Generator().manual_seed(1))
    operator, x = NonlinearBlur(network(), codes), torch.rand(1, 3, *size).expand(2, -1, -1, -1)
    y = operator.forward(x)
    assert y.shape == x.shape
    assert not torch.allclose(y[0], y[1]), "each sample has its own code"
    alone = NonlinearBlur(network(), codes[1:]).forward(x[1:])
    torch.testing.assert_close(alone[0], y[1])


def test_a_code_of_the_right_size_is_used_as_it_is_and_others_take_the_nearest():
    model, image = network(), torch.rand(1, 3, 64, 64)
    code = torch.randn(1, 7, 2, 2)
    assert torch.equal(NonlinearBlur(model, code).forward(image), model(image, code))
    large = torch.rand(1, 3, 128, 64)
    assert torch.equal(NonlinearBlur(model, code).forward(large), model(large, code.repeat_interleave(2, 2)))


def test_the_gradient_reaches_the_image_and_the_weights_stay_frozen():
    operator = NonlinearBlur(network(), torch.randn(1, 7, 2, 2))
    x = torch.rand(1, 3, 20, 20, requires_grad=True)
    operator.forward(x).square().sum().backward()
    assert x.grad.abs().min() > 0
    assert all(p.grad is None and not p.requires_grad for p in operator.network.parameters())


def test_the_scale_of_the_code(tmp_path):
    network(code_channels=500).save_pretrained(tmp_path / "net")
    scales = torch.tensor([1.2, 0.5])
    operator = NonlinearBlur.batch((8, 8), torch.Generator().manual_seed(0), weights=str(tmp_path / "net"), kernel_scale=scales)
    assert operator.code.shape == (2, 500, 2, 2)
    torch.testing.assert_close(operator.code.flatten(1).std(1), scales, rtol=0.06, atol=0)
    default = NonlinearBlur.from_options((8, 8), 0, weights=str(tmp_path / "net"))
    assert default.describe() == {"weights": str(tmp_path / "net"), "kernel_scale": 1.2}


def test_weights_that_cannot_be_loaded_are_named(tmp_path):
    folder = tmp_path / "net"
    with pytest.raises(UsageError, match="`weights` no/such/folder/at/all: no such folder, and no Hub id"):
        load_network("no/such/folder/at/all")
    (tmp_path / "file.pth").write_bytes(b"")
    with pytest.raises(UsageError, match="file.pth is a file; convert it first"):
        load_network(str(tmp_path / "file.pth"))
    folder.mkdir()
    with pytest.raises(FlashdiffError, match=r"net: no config.json"):
        load_network(str(folder))
    network().save_pretrained(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(
        FlashdiffError, match=r"net.*safetensors: not a whole safetensors file|net.*safetensors: the header|net.*safetensors: .*damaged"
    ):
        load_network(str(folder))
    network(back_blocks=2).save_pretrained(tmp_path / "other")
    weights.write_bytes((tmp_path / "other" / "diffusion_pytorch_model.safetensors").read_bytes())
    with pytest.raises(FlashdiffError, match=r"net: missing keys in the weights, e.g. back.2.conv1.bias"):
        load_network(str(folder))
    weights.write_bytes(whole)
    assert load_network(str(folder)).config.back_blocks == 3


def test_a_hub_id_is_downloaded_at_its_revision(tmp_path, monkeypatch):
    network().save_pretrained(tmp_path)
    asked = []

    def download(name, revision, allow_patterns, local_files_only):
        asked.append((name, revision))
        assert not local_files_only
        if name == "no/one":
            raise OSError("offline")
        return str(tmp_path)

    monkeypatch.setattr(hub_network, "snapshot_download", download)
    assert load_network("some/one@v1.0").config.channels == 4
    assert load_network("some/one").config.channels == 4
    assert asked == [("some/one", "v1.0"), ("some/one", None)]
    with pytest.raises(FlashdiffError, match=r"`weights` no/one: no such folder, and the Hub does not give it \(offline\)"):
        load_network("no/one")


def test_offline_asks_no_network_for_the_weights(tmp_path, monkeypatch):
    load_network.cache_clear()
    asked = []

    def download(name, revision, allow_patterns, local_files_only):
        asked.append(local_files_only)
        raise OSError("not here")

    monkeypatch.setattr(hub_network, "snapshot_download", download)
    tiny, folder = save_tiny_model(tmp_path / "tiny"), tmp_path / "a.png"
    Image.new("RGB", (32, 32), "grey").save(folder)
    settings = {"operator": "nonlinear-blur", "operator_options": {"weights": "some/one"}}
    for offline in (True, False):
        restorer = Restorer(tiny, "cpu", offline=offline)
        with pytest.raises(FlashdiffError, match="not on this machine" if offline else "the Hub does not give it"):
            restorer.restore(read_picture(folder), Settings(**settings), "a.png")
        assert asked.pop() is offline
    allow_network(True)


def test_a_picture_of_one_tile_is_restored(tmp_path):
    network().save_pretrained(tmp_path / "net")
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "a.png")
    restorer = Restorer(save_tiny_model(tmp_path / "tiny", defaults={"steps": 4}), "cpu")
    settings = Settings(operator="nonlinear-blur", operator_options={"weights": str(tmp_path / "net")}, noise_std=0.02, start_step=1)
    restored, record = restorer.restore(read_picture(tmp_path / "a.png"), settings, "a.png")
    assert restored.size == (64, 64) and record.steps == 1 and record.operator["name"] == "nonlinear-blur"
