"""The product basis of MACE: symmetric polynomials up to third order, per element and channel.

    B[n, w, c] = sum over i        U1[w, i, q]       W1[e_n, q, c] A[n, i, c]
               + sum over i, j     U2[w, i, j, q]    W2[e_n, q, c] A[n, i, c] A[n, j, c]
               + sum over i, j, k  U3[w, i, j, k, q] W3[e_n, q, c] A[n, i, c] A[n, j, c] A[n, k, c]

(Batatia et al., arXiv:2206.07697, eq. 10 and 11).  U and the weights of an
element are multiplied once, when the element is first seen, and made symmetric,
so that the polynomial takes one matrix product over the pairs j <= k; by
Euler's theorem the same numbers are its gradient, which makes the backward
pass free.  Only first derivatives are provided.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = 4 << 20
"""Size of the pair products worked on at a time, bytes; about a cache."""

MAX_ORDER = 3

_PAIRS: dict[tuple[int, torch.device | None], tuple[Tensor, Tensor]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Atoms ``first`` to ``last`` (exclusive) are of the element with this index."""

    element: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coefficients:
    """Coefficients of one element, batch of M C, outputs W, components D.

    ``linear`` (M C, W D, 1), ``square`` (M C, W D, D), ``cubic`` (M C, W D, pairs).
    """

    linear: Tensor
    square: Tensor | None
    cubic: Tensor | None


@dataclass(slots=True)
class SymmetricPolynomial:
    """The polynomials of one layer for M members.

    Attributes
    ----------
    bases
        Per output irrep and order from 1: U with the output component first,
        shape (W, D, ..., D, Q).
    weights
        Per output irrep and order from 1: shape (M, elements, Q, C).
    span
        First and last (exclusive) member these polynomials are of, None for all.
    """

    bases: tuple[tuple[Tensor, ...], ...]
    weights: tuple[tuple[Tensor, ...], ...]
    span: tuple[int, int] | None = None
    _known: dict[int, _Coefficients] = field(default_factory=dict, init=False)

    def coefficients(self, element: int) -> _Coefficients:
        """Return the coefficients of one element, computed when first asked for."""
        if element not in self._known:
            self._known[element] = self._multiply(element)
        whole = self._known[element]
        if self.span is None:
            return whole
        channels = self.weights[0][0].shape[-1]
        rows = slice(self.span[0] * channels, self.span[1] * channels)
        return _Coefficients(
            linear=whole.linear[rows],
            square=None if whole.square is None else whole.square[rows],
            cubic=None if whole.cubic is None else whole.cubic[rows],
        )

    def members(self, first: int, last: int) -> SymmetricPolynomial:
        """Return the polynomials of some members; they share the coefficients known here."""
        some = SymmetricPolynomial(bases=self.bases, weights=self.weights, span=(first, last))
        some._known = self._known
        return some

    def _multiply(self, element: int) -> _Coefficients:
        orders: list[Tensor | None] = []
        for order in range(MAX_ORDER):
            parts = [
                _contract(bases[order], weights[order][:, element])
                for bases, weights in zip(self.bases, self.weights, strict=True)
                if order < len(bases)
            ]
            orders.append(torch.cat(parts, dim=1).flatten(1, 2) if parts else None)
        linear, square, cubic = orders
        if linear is None:
            raise ValueError("a polynomial needs its linear term.")
        return _Coefficients(linear=linear, square=square, cubic=cubic)


def pairs(components: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return the index pairs j <= k of the cubic term's pair products."""
    if (components, device) not in _PAIRS:
        rows, columns = torch.triu_indices(components, components, device=device)
        _PAIRS[components, device] = (rows, columns)
    return _PAIRS[components, device]


def _contract(basis: Tensor, weights: Tensor) -> Tensor:
    """Return symmetric coefficients, shape (M C, W, D, others), of one order and irrep."""
    order = basis.dim() - 2
    axes = range(1, order + 1)
    symmetric = torch.stack(
        [basis.permute(0, *shuffled, order + 1) for shuffled in permutations(axes)]
    ).mean(0)
    width, components = symmetric.shape[:2]
    if order == MAX_ORDER:
        first, second = pairs(components, basis.device)
        twice = 1.0 + (first != second).to(basis.dtype)
        symmetric = symmetric[:, :, first, second] * twice[:, None]
    others = symmetric.reshape(width, components, -1, symmetric.shape[-1])
    product = torch.einsum("wdoq,mqc->mcwdo", others, weights)
    return product.flatten(0, 1).contiguous()


class Polynomial(torch.autograd.Function):
    """Features (M, N, D, C) to their polynomials (M, N, W, C)."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, polynomial: SymmetricPolynomial, groups: tuple[Group, ...]
    ) -> Tensor:
        """Return the polynomials; their gradient is computed on the way."""
        members, _, components, channels = features.shape
        values, slopes = [], []
        for group in groups:
            part = features[:, group.first : group.last].permute(0, 3, 2, 1)
            part = part.reshape(members * channels, components, -1)
            value, slope = _evaluate(part, polynomial.coefficients(group.element))
            values.append(value)
            slopes.append(slope)
        value = values[0] if len(values) == 1 else torch.cat(values, 2)
        slope = slopes[0] if len(slopes) == 1 else torch.cat(slopes, 3)
        ctx.save_for_backward(slope)
        ctx.members = members
        return value.view(members, channels, *value.shape[1:]).permute(0, 3, 2, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the features."""
        (slope,) = ctx.saved_tensors
        batch, width, components, atoms = slope.shape
        grad = grads[0].permute(0, 3, 2, 1).reshape(batch, width, 1, atoms)
        features_grad = grad * slope
        features_grad = features_grad.sum(1) if width > 1 else features_grad.squeeze(1)
        features_grad = features_grad.view(ctx.members, -1, components, atoms)
        return features_grad.permute(0, 3, 2, 1), None, None


def _evaluate(x: Tensor, known: _Coefficients) -> tuple[Tensor, Tensor]:
    """Return value (B, W, N) and gradient (B, W, D, N) at points x of shape (B, D, N)."""
    batch, components, atoms = x.shape
    total = slope = known.linear.expand(-1, -1, atoms)
    if known.square is not None:
        square = torch.bmm(known.square, x)
        total = total + square
        slope = total + square
    if known.cubic is not None:
        cubic = _cubic(x, known.cubic)
        total = total + cubic
        slope = torch.add(slope, cubic, alpha=3)
    total = total.view(batch, -1, components, atoms)
    return (total * x.unsqueeze(1)).sum(2), slope.reshape(total.shape)


def _cubic(x: Tensor, coefficients: Tensor) -> Tensor:
    batch, components, atoms = x.shape
    first, second = pairs(components, x.device)
    size = max(1, BLOCK_BYTES // max(atoms * len(first) * x.element_size(), 1))
    if size >= batch:
        return torch.bmm(coefficients, x.index_select(1, first) * x.index_select(1, second))
    out = x.new_empty(batch, coefficients.shape[1], atoms)
    for start in range(0, batch, size):
        some = slice(start, start + size)
        products = x[some].index_select(1, first).mul_(x[some].index_select(1, second))
        torch.bmm(coefficients[some], products, out=out[some])
    return out
