"""What commands say when packages of an extra are not installed."""

import sys

import pytest

from flashdiff_cli.commands import extras
from flashdiff_cli.errors import UsageError


def test_what_is_missing_is_named_with_its_remedy(monkeypatch):
    extras.require("bench", "a bench needs")
    monkeypatch.setitem(extras.PACKAGES, "bench", ("json", "no_such_package"))
    with pytest.raises(UsageError, match=r'a bench needs the extra packages of pip install "flashdiff\[bench\]" \(no_such_package'):
        extras.require("bench", "a bench needs")


@pytest.mark.parametrize("arguments", [("bench", "PICTURES", "--operator", "identity", "-o", "out"), ("compare", "a", "b", "--truth", "c")])
def test_a_command_that_lacks_its_packages_is_wrong_usage(cli, tmp_path, monkeypatch, arguments):
    from PIL import Image

    for name in ("a", "b", "c"):
        Image.new("RGB", (32, 32), "grey").save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(extras.PACKAGES, "bench", ("no_such_package",))
    arguments = ["." if a == "PICTURES" else f"{a}.png" if a in ("a", "b", "c") else a for a in arguments]
    code, _, err = cli(*arguments)
    assert code == 2 and len(err.splitlines()) == 1 and "flashdiff[bench]" in err
    assert "no_such_package" not in sys.modules
