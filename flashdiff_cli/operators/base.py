"""What a degradation is: the interface of every operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from flashdiff_cli.broadcast import shaped
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators.proximal import solve
from flashdiff_cli.registry import Option


def per_sample(value: float | Sequence[float] | torch.Tensor) -> torch.Tensor:
    """Return a parameter as a float32 tensor (B,); a number becomes (1,), which stands for any batch size."""
    return torch.as_tensor(value, dtype=torch.float32).reshape(-1)


def choose(parameter: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    """Return a per-sample parameter (B, ...) of the active samples; one of length 1 stands for all and stays."""
    return parameter if len(parameter) == 1 and len(active) != 1 else parameter[active.to(parameter.device)]


class Operator(ABC):
    """A forward model A on intensities.

    Images are (B, 3, H, W) with intensities in [0, 1]; a measurement is y = A(x) + n with n ~ N(0, noise_std^2).
    Parameters are per sample: tensors of length B, or of length 1 for all samples. All draws that an operator
    needs are made when it is built, so that its state is frozen while a solver uses it.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    linear: ClassVar[bool] = True
    options: ClassVar[tuple[Option, ...]] = ()
    stride: int = 1
    """Pixels of the image, along each side, for one pixel of the measurement."""
    looks_like: ClassVar[str | None] = None
    """The degradation that a severity encoder is to look for in what it sees (`seen`), if that is another; one that knows it comes first."""
    encoder_fallback: ClassVar[str | None] = None
    """The degradation whose severity encoder serves where a model has none that was trained on this one."""

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute A(x), differentiable; (B, 3, H, W) in [0, 1] -> measurement."""

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Compute A'y with <Ax, y> = <x, A'y> exactly; linear operators only, differentiable.

        Raises:
            UsageError: the operator is not linear.
        """
        raise UsageError(f"the operator {self.name} is not linear, so it has no adjoint; choose a solver that needs none")

    def proximal(self, x: torch.Tensor, y: torch.Tensor, noise_variance: torch.Tensor, error_variance: torch.Tensor) -> torch.Tensor:
        """Return argmin_u |A u - y|^2 / (2 s^2) + |u - x|^2 / (2 t^2); linear operators only.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            y: the measurement, in [-1, 1] units.
            noise_variance, error_variance: s^2 and t^2, (B,), on the scale of [-1, 1].

        Raises:
            UsageError: the operator is not linear.
        """
        return solve(x, y - self.on_signed(x), self.forward, self.adjoint, noise_variance, error_variance)

    def hides_detail(self) -> torch.Tensor:
        """Return (B,) or (1,), bool: whether it is known to take away fine detail, so that whatever is fine in a measurement is noise."""
        return torch.tensor([False])

    @abstractmethod
    def describe(self, index: int = 0) -> dict[str, Any]:
        """Return the parameters of sample `index`, as JSON values under their options' names."""

    @abstractmethod
    def subset(self, active: torch.Tensor) -> Operator:
        """Return the operator of the samples where `active` (B,), bool, is true."""

    @classmethod
    def stack(cls, operators: Sequence[Operator]) -> Operator:
        """Return one operator whose sample i is what operators[i], each of one sample, does; the reverse of `subset`.

        Raises:
            UsageError: they cannot share a batch.
        """
        kinds = {type(operator) for operator in operators}
        if len(kinds) != 1:
            raise UsageError("operators of different kinds cannot share a batch; run them one by one")
        return operators[0] if len(operators) == 1 else kinds.pop()._stack(operators)

    @classmethod
    def _stack(cls, operators: Sequence[Operator]) -> Operator:
        """Do as `stack` with two or more operators of just this class; a kind that does not define it cannot be stacked."""
        raise cls._unstackable("operators of this kind")

    @classmethod
    def _unstackable(cls, what: str) -> UsageError:
        return UsageError(f"{cls.name}: {what} cannot share a batch; run them one by one")

    def measured_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (H', W') of the measurement of images of (H, W)."""
        return size

    @classmethod
    def image_size(cls, measured: tuple[int, int], values: dict[str, Any]) -> tuple[int, int]:
        """Return (H, W) of the image that a measurement of (H', W') is of, for the given option values."""
        return measured

    def resize_to_image(self, y: torch.Tensor) -> torch.Tensor:
        """Return a measurement at the size of the image that it measures: what a severity encoder can look at."""
        return y

    def seen(self, y: torch.Tensor) -> torch.Tensor:
        """Return what a severity encoder looks at: a measurement (B, 3, H', W') at the size of its image, without holes."""
        return self.resize_to_image(y)

    def kept(self) -> torch.Tensor | None:
        """Return where the pixels of a measurement are known: (B, H, W) or (1, H, W), bool; None: everywhere."""
        return None

    def extend(self, size: tuple[int, int]) -> Operator:
        """Return the operator of images that were padded at the bottom and right, by mirroring, to `size` (H, W).

        Raises:
            UsageError: the operator is bound to a size and `size` is smaller.
        """
        return self

    def window(self, top: int, left: int, height: int, width: int) -> Operator:
        """Return the operator of a window of the images, in pixels that are multiples of `stride`.

        One that does the same everywhere is its own window; at the window's borders it mirrors what it sees.

        Raises:
            FlashdiffError: the operator makes sense on whole images only.
        """
        return self

    @classmethod
    def from_options(cls, size: tuple[int, int], seed: int, **values: Any) -> Operator:
        """Build from command-line values.

        Args:
            size: (H, W) of the images.
            seed: for operators that draw something (a mask, a trajectory).
            values: by option name; unknown ones are an error, missing ones take their default.

        Raises:
            UsageError: as `Option.parse`, or an option that this operator does not have.
        """
        known = cls.known(values)
        return cls.build(size, seed, **{name: option.parse(values.get(name)) for name, option in known.items()})

    @classmethod
    def build(cls, size: tuple[int, int], seed: int, **values: Any) -> Operator:
        """Build as `from_options` does, with values that are already checked and complete."""
        return cls.make(size, torch.Generator().manual_seed(seed), **values)

    @classmethod
    def batch(cls, size: tuple[int, int], generator: torch.Generator, **values: torch.Tensor) -> Operator:
        """Return one operator for many samples, each with its own parameters; whatever else is drawn comes from `generator`.

        Args:
            size: (H, W).
            generator: CPU generator.
            values: parameters (B,) by option name; missing ones take their default.

        Raises:
            UsageError: an option that this operator does not have, or one is missing that has no default.
        """
        known = cls.known(values)
        return cls.make(size, generator, **{k: values[k] if k in values else o.parse(None) for k, o in known.items()})

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> Operator:
        """Return what `build` and `batch` share: the operator of complete values, numbers or (B,), with its draws made."""
        return cls(**values)

    @classmethod
    def known(cls, values: dict[str, Any]) -> dict[str, Option]:
        """Return this operator's options by name; a UsageError if `values` has others."""
        known = {o.name: o for o in cls.options}
        if unknown := [k for k, v in values.items() if v is not None and k not in known]:
            names = ", ".join(f"`{k}`" for k in unknown)
            raise UsageError(f"{names} does not go with `operator` {cls.name}")
        return known

    def on_signed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same operator on images in [-1, 1]: 2 A((x + 1) / 2) - 1."""
        return 2 * self.forward((x + 1) / 2) - 1

    def measure(self, image: torch.Tensor, noise_std: float | torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Degrade images in [-1, 1]: A(x) + n, in [-1, 1] units, neither clipped nor rounded.

        Args:
            image: (B, 3, H, W) in [-1, 1].
            noise_std: of the noise on intensities in [0, 1]; a number or (B,).
            generators: one CPU generator a sample.
        """
        clean = self.on_signed(image)
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators]).to(clean)
        return clean + 2 * shaped(per_sample(noise_std), clean) * noise
