"""What an edge looks like to a network: harmonics of its direction, radial basis of its length.

Both are computed once for all members, with their derivatives.  Spherical
harmonics are polynomials of the unit vector; their coefficients are fitted
once to the network's own harmonics, which they reproduce to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class RadialValues:
    """Radial basis (P, B) and slope, and the cut-off function (P, 1) and slope where it is apart.

    Slopes are with respect to the distance, 1/A.
    """

    basis: Tensor
    slope: Tensor
    envelope: Tensor | None = None
    envelope_slope: Tensor | None = None


class Radial(Protocol):
    """Distances to radial basis, with slopes."""

    def __call__(
        self, distance: Tensor, one_hot: Tensor, ends: Tensor, numbers: Tensor
    ) -> RadialValues:
        """Evaluate distances (P, 1) in A.

        ``one_hot`` (N, elements) and ``ends`` (2, P) say which elements meet,
        ``numbers`` (elements,) their atomic numbers.
        """

    def to(self, dtype: torch.dtype, device: torch.device) -> Radial:
        """Move to another precision and device; returns itself."""


class BesselRadial:
    """Bessel functions times a polynomial cut-off function (arXiv:2206.07697, eq. 7 and 8).

    Parameters
    ----------
    waves
        Wave numbers, 1/A, shape (B,).
    prefactor
        Factor of the basis, A^(1/2).
    cutoff
        Radius beyond which everything is zero, A.
    power
        Exponent p of the cut-off function.
    apart
        Return the cut-off function by itself instead of in the basis.
    """

    def __init__(
        self, waves: Tensor, prefactor: float, cutoff: float, power: int, *, apart: bool
    ) -> None:
        self._waves, self._prefactor = waves, prefactor
        self._cutoff, self._power, self._apart = cutoff, power, apart

    def to(self, dtype: torch.dtype, device: torch.device) -> BesselRadial:
        """Move to another precision and device; returns itself."""
        self._waves = self._waves.to(device=device, dtype=dtype)
        return self

    def __call__(
        self,
        distance: Tensor,
        one_hot: Tensor,  # noqa: ARG002 - the same for all elements
        ends: Tensor,  # noqa: ARG002
        numbers: Tensor,  # noqa: ARG002
    ) -> RadialValues:
        """Evaluate distances (P, 1) in A; see `Radial`."""
        phase = distance * self._waves
        basis = torch.sin(phase) * (self._prefactor / distance)
        slope = (torch.cos(phase) * (self._prefactor * self._waves) - basis) / distance
        envelope, envelope_slope = self._envelope(distance)
        if self._apart:
            return RadialValues(basis, slope, envelope, envelope_slope)
        return RadialValues(
            basis * envelope, torch.addcmul(slope * envelope, basis, envelope_slope)
        )

    def _envelope(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        p = self._power
        x = distance / self._cutoff
        inside = (x < 1).to(x.dtype)
        lower = x ** (p - 1) * inside
        a, b, c = (p + 1) * (p + 2) / 2, p * (p + 2), p * (p + 1) / 2
        value = inside - lower * x * (a - x * (b - c * x))
        slope = lower * (a * p - x * (b * (p + 1) - (c * (p + 2)) * x)) / -self._cutoff
        return value, slope


class DifferentiatedRadial:
    """Any radial module of a network, differentiated by torch: general, and slower.

    Parameters
    ----------
    module
        Takes what `Radial` takes; gives the basis, and the cut-off function or None.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def to(self, dtype: torch.dtype, device: torch.device) -> DifferentiatedRadial:
        """Move to another precision and device; returns itself."""
        self._module = self._module.to(device=device, dtype=dtype)
        return self

    def __call__(
        self, distance: Tensor, one_hot: Tensor, ends: Tensor, numbers: Tensor
    ) -> RadialValues:
        """Evaluate distances (P, 1) in A; see `Radial`."""
        with torch.enable_grad():
            leaf = distance.detach().clone().requires_grad_()
            basis, envelope = self._module(leaf, one_hot, ends, numbers)
            columns = [
                torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0]
                for column in basis.unbind(1)
            ]
            slope = torch.cat(columns, 1)
            if envelope is None:
                return RadialValues(basis.detach(), slope)
            (envelope_slope,) = torch.autograd.grad(envelope.sum(), leaf)
        return RadialValues(basis.detach(), slope, envelope.detach(), envelope_slope)


class Harmonics:
    """Real spherical harmonics of degree 0 to ``max_degree`` as polynomials.

    Parameters
    ----------
    function
        Unit vectors (E, 3) to harmonics (E, S), degrees in ascending order.
    degrees
        Degree of each irrep, ``(0, 1, 2, 3)``.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], degrees: Sequence[int]) -> None:
        self._exponents = [_exponents(degree) for degree in range(max(degrees) + 1)]
        points = torch.randn(
            400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        points = torch.nn.functional.normalize(points, dim=-1)
        values, first, parts = function(points), 0, []
        for degree in degrees:
            monomials = torch.stack(
                [(points ** torch.tensor(e)).prod(-1) for e in self._exponents[degree]], -1
            )
            block = values[:, first : first + 2 * degree + 1]
            parts.append(torch.linalg.lstsq(monomials, block).solution)
            first += 2 * degree + 1
        self._coefficients, self._slopes = self._assemble(degrees, parts)
        self._degrees = torch.repeat_interleave(
            torch.tensor(degrees, dtype=torch.float64), 2 * torch.tensor(degrees) + 1
        )

    def _assemble(self, degrees: Sequence[int], parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        flat = [e for exponents in self._exponents for e in exponents]
        place = {e: number for number, e in enumerate(flat)}
        width = sum(2 * degree + 1 for degree in degrees)
        values = torch.zeros(len(flat), width, dtype=torch.float64)
        slopes = torch.zeros(len(flat), width, 3, dtype=torch.float64)
        first = 0
        for degree, part in zip(degrees, parts, strict=True):
            columns = slice(first, first + 2 * degree + 1)
            for exponents, row in zip(self._exponents[degree], part, strict=True):
                values[place[exponents], columns] = row
                for axis in range(3):
                    if exponents[axis]:
                        lower = list(exponents)
                        lower[axis] -= 1
                        slopes[place[lower[0], lower[1], lower[2]], columns, axis] += (
                            exponents[axis] * row
                        )
            first = columns.stop
        return values, slopes.flatten(1)

    @property
    def parity(self) -> Tensor:
        """Sign of each harmonic where the direction is turned round, shape (S,)."""
        return 1 - 2 * (self._degrees % 2)

    def to(self, dtype: torch.dtype, device: torch.device) -> Harmonics:
        """Move to another precision and device; returns itself."""
        self._coefficients = self._coefficients.to(device=device, dtype=dtype)
        self._slopes = self._slopes.to(device=device, dtype=dtype)
        self._degrees = self._degrees.to(device=device, dtype=dtype)
        return self

    def __call__(self, unit: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Return harmonics (E, S) and derivatives with respect to the vector (E, S, 3), 1/A.

        ``unit`` are unit vectors (E, 3), ``distance`` lengths (E, 1) in A.  A
        polynomial of degree l has the radial slope l times its value (Euler).
        """
        monomials = self._monomials(unit)
        values = monomials @ self._coefficients
        slopes = (monomials @ self._slopes).view(*values.shape, 3)
        outward = (values * self._degrees).unsqueeze(-1) * unit.unsqueeze(1)
        return values, (slopes - outward) / distance.unsqueeze(-1)

    def _monomials(self, unit: Tensor) -> Tensor:
        blocks = [torch.ones_like(unit[:, :1])]
        for degree in range(1, len(self._exponents)):
            below = blocks[-1]
            # x^a y^b z^c sorted as in _exponents: x times all, y times those
            # without x, z times z^(degree - 1)
            blocks.append(
                torch.cat(
                    [
                        below * unit[:, :1],
                        below[:, -degree:] * unit[:, 1:2],
                        below[:, -1:] * unit[:, 2:],
                    ],
                    1,
                )
            )
        return torch.cat(blocks, 1)


def _exponents(degree: int) -> list[tuple[int, int, int]]:
    """Return exponents of x, y, z by falling power of x, then of y."""
    return [
        (a, b, degree - a - b) for a in range(degree, -1, -1) for b in range(degree - a, -1, -1)
    ]
