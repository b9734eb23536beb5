"""The weights of M MACE networks of one architecture, member by member in one tensor each.

Layout: member M first, channel C last, irreducible components D in between.

Batatia et al., MACE, NeurIPS 2022 (arXiv:2206.07697), equations 7 to 13.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from hybrid_calc.committee.convolution import Couplings
from hybrid_calc.committee.polynomial import SymmetricPolynomial

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A linear map between irreps of equal kind: components ``source`` to ``target``.

    ``weight`` has shape (M, C, C'), or (M, elements, C, C') where it depends on
    the element.
    """

    source: slice
    target: slice
    weight: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """Scalar features of one layer to node energies: a vector, or a matrix, activation, vector.

    ``vector`` has shape (M, C, 1); ``matrix`` (M, C, H) with ``vector`` (M, H, 1).
    """

    layer: int
    vector: Tensor
    matrix: Tensor | None = None
    activation: str = "identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One interaction and product.

    Attributes
    ----------
    up
        Features to neighbour features; None where they depend on the element alone.
    up_table
        Neighbour features per element, shape (M, elements, 1, C), in the first layer.
    network
        Radial network, matrices of shape (M, in, out) with SiLU between them;
        the last one gives the radial weights of all paths.
    density
        Matrix of the density normalisation, shape (M, B, 1), or None.
    couplings
        What the messages between neighbours are made of.
    mix
        Per output slot: message channels to features, shape (M, paths C, C') or
        with elements second; the mean number of neighbours is folded in.
    polynomial
        The product basis.
    product
        Polynomials to features.
    skip
        Features past the layer, per element; empty where there is none.
    skip_table
        The same where the features depend on the element alone, (M, elements, 1, C').
    components
        Components D of the features this layer gives.
    """

    up: tuple[Block, ...] | None
    up_table: Tensor | None
    network: tuple[Tensor, ...]
    density: Tensor | None
    couplings: Couplings
    mix: tuple[Tensor, ...]
    polynomial: SymmetricPolynomial
    product: tuple[Block, ...]
    skip: tuple[Block, ...]
    skip_table: Tensor | None
    components: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """M networks.

    Attributes
    ----------
    layers
        Interactions, first to last.
    readouts
        What gives node energies.
    scale, shift
        Of the node energies, eV, shape (M, 1).
    atomic_energies
        Energy of the isolated atoms, eV, shape (M, elements), always float64.
    """

    layers: tuple[Layer, ...]
    readouts: tuple[Readout, ...]
    scale: Tensor
    shift: Tensor
    atomic_energies: Tensor


SHARED = frozenset({"coupling", "bases"})
"""Fields whose tensors all members share."""


def join(stacks: Sequence[Stack]) -> Stack:
    """Put the members of several stacks of one architecture into one."""
    return cast(Stack, _join(list(stacks), ""))


def _join(items: list[Any], name: str) -> Any:
    first = items[0]
    if isinstance(first, Tensor):
        return first if name in SHARED else torch.cat(items, 0)
    if isinstance(first, tuple):
        return tuple(_join(list(parts), name) for parts in zip(*items, strict=True))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [part.name for part in dataclasses.fields(first) if part.init]
        return type(first)(**{n: _join([getattr(i, n) for i in items], n) for n in names})
    return first


def convert(item: Any, dtype: torch.dtype, device: torch.device, name: str = "") -> Any:
    """Return a stack with its tensors of another precision, on another device.

    Atomic energies stay in float64: their sum would lose what members differ by.
    """
    if isinstance(item, Tensor):
        return item.to(device=device, dtype=item.dtype if name == "atomic_energies" else dtype)
    if isinstance(item, tuple):
        return tuple(convert(part, dtype, device, name) for part in item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        names = [part.name for part in dataclasses.fields(item) if part.init]
        return type(item)(**{n: convert(getattr(item, n), dtype, device, n) for n in names})
    return item


def take(item: Any, first: int, last: int, name: str = "") -> Any:
    """Return the stack of some of the members; nothing is copied."""
    if isinstance(item, SymmetricPolynomial):
        return item.members(first, last)
    if isinstance(item, Tensor):
        return item if name in SHARED else item[first:last]
    if isinstance(item, tuple):
        return tuple(take(part, first, last, name) for part in item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        names = [part.name for part in dataclasses.fields(item) if part.init]
        return type(item)(**{n: take(getattr(item, n), first, last, n) for n in names})
    return item
