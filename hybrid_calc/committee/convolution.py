"""Messages between neighbours: tensor product with the directions, and sum, all members at once.

For receiver i, path p and channel c (Batatia et al., arXiv:2206.07697, eq. 8)

    message[i, m3, c] = sum over j, m1   R[ij, p, c] h[j, m1, c] T[ij, m1, m3]

with R the radial weights, h the neighbour's features and
``T = sum over m2 of C[m1, m2, m3] Y[m2]`` the coupling with the spherical
harmonics of the direction.  The sum over neighbours is a matrix product, so
no tensor of edges times channels times components is ever written; R depends
on the distance alone and is given once per pair.  Receivers are worked off in
blocks that fit the cache; with several blocks the backward pass computes them
anew, which is faster than writing them to memory and reading them back.  Only
first derivatives are provided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = 4 << 20
"""Size of the radial weights of one block of receivers, bytes; about a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receivers:
    """n atoms with the edges that end at them, K slots each; empty slots have zero harmonics.

    Attributes
    ----------
    atoms
        The receivers, shape (n,), or None for all in order.
    slots
        Slots per receiver, K.
    edges
        Edge in each slot, the last of all for an empty one, shape (n K,).
    pairs, senders
        Its pair and the atom it starts at, shape (n K,).
    harmonics
        Spherical harmonics of its direction, shape (n K, S).
    """

    atoms: Tensor | None
    slots: int
    edges: Tensor
    pairs: Tensor
    senders: Tensor
    harmonics: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One coupling of neighbour features with harmonics: d1 components in, d3 out.

    ``first`` is the offset of the d1 components among the features, ``output``
    the slot the message belongs to and ``rank`` its place among the paths of
    that slot; ``columns`` cuts the path's (d1 d3) out of the coupling matrix.
    """

    first: int
    d1: int
    d3: int
    output: int
    rank: int
    columns: slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Couplings:
    """What all members share of a convolution.

    Attributes
    ----------
    coupling
        Harmonics to coupling tensors of all paths, shape (S, sum of d1 d3).
    paths
        The paths in the order of the radial weights.
    outputs
        Components d3 and number of paths of each output slot.
    """

    coupling: Tensor
    paths: tuple[Path, ...]
    outputs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """Intermediates of one block of receivers: (M, n, K, ...), members first."""

    radial: Tensor
    neighbours: Tensor
    couplings: list[Tensor]
    values: list[Tensor]


class Convolution(torch.autograd.Function):
    """Features (M, N, D, C) to one message (M, N, d3, paths C) per output slot.

    ``radial`` (M, P, paths C) are the weights of each pair.  ``anchor``
    (M, E, S) carries no value: its gradient is that of the members' energies
    with respect to the harmonics of each edge.  The last edge is the empty one.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes arguments by position
        ctx: Any,
        features: Tensor,
        radial: Tensor,
        anchor: Tensor,
        shared: Couplings,
        receivers: Sequence[Receivers],
    ) -> tuple[Tensor, ...]:
        """Return the messages, one tensor per output slot."""
        members, atoms, _, channels = features.shape
        out = [features.new_empty(members, atoms, d3, n * channels) for d3, n in shared.outputs]
        block = None
        for some in receivers:
            block = _run(some, features, radial, shared)
            for path, values, coupling in zip(
                shared.paths, block.values, block.couplings, strict=True
            ):
                message = torch.matmul(coupling.transpose(-1, -2), values)
                columns = slice(path.rank * channels, (path.rank + 1) * channels)
                if some.atoms is None:
                    out[path.output][..., columns] = message
                else:
                    out[path.output][..., columns].index_copy_(1, some.atoms, message)
        ctx.save_for_backward(features, radial)
        ctx.shape = anchor.shape
        ctx.case = (shared, receivers, block if len(receivers) == 1 else None)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        """Return the gradients of features, radial weights and anchor."""
        features, radial = ctx.saved_tensors
        shared, receivers, kept = ctx.case
        ctx.case = None
        features_grad = torch.zeros_like(features) if ctx.needs_input_grad[0] else None
        radial_grad = torch.zeros_like(radial)
        anchor_grad = features.new_empty(ctx.shape)
        for some in receivers:
            block = kept if kept is not None else _run(some, features, radial, shared)
            own = grads if some.atoms is None else [g.index_select(1, some.atoms) for g in grads]
            parts = _backward(block, own, shared, wanted=features_grad is not None)
            _add_rows(radial_grad, some.pairs, parts[0])
            anchor_grad.index_copy_(1, some.edges, parts[1])
            if features_grad is not None and parts[2] is not None:
                _add_rows(features_grad, some.senders, parts[2])
        anchor_grad[:, -1] = 0.0
        return features_grad, radial_grad, anchor_grad, None, None


def _run(some: Receivers, features: Tensor, radial: Tensor, shared: Couplings) -> _Block:
    """Compute couplings and weighted neighbour features of some receivers."""
    members, _, components, channels = features.shape
    shape = (members, len(some.edges) // some.slots, some.slots)
    weights = radial.index_select(1, some.pairs).view(*shape, len(shared.paths), channels)
    neighbours = features.index_select(1, some.senders).view(*shape, components, channels)
    couplings, values = [], []
    for number, path in enumerate(shared.paths):
        source = neighbours[..., path.first : path.first + path.d1, :]
        value = weights[..., number, None, :] * source
        values.append(value.view(*shape[:2], some.slots * path.d1, channels))
        tensor = some.harmonics @ shared.coupling[:, path.columns]
        couplings.append(tensor.view(shape[1], some.slots * path.d1, path.d3))
    return _Block(weights, neighbours, couplings, values)


def _backward(
    block: _Block, grads: Sequence[Tensor], shared: Couplings, *, wanted: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of radial weights, harmonics and neighbours' features, per slot."""
    members, count, slots, _, channels = block.radial.shape
    radial_grad = torch.empty_like(block.radial)
    tensor_grad = block.radial.new_empty(members, count * slots, shared.coupling.shape[1])
    neighbours_grad = torch.zeros_like(block.neighbours) if wanted else None
    for number, path in enumerate(shared.paths):
        columns = slice(path.rank * channels, (path.rank + 1) * channels)
        grad = grads[path.output][..., columns]
        components = slice(path.first, path.first + path.d1)
        values_grad = torch.matmul(block.couplings[number], grad)
        values_grad = values_grad.view(members, count, slots, path.d1, channels)
        source = block.neighbours[..., components, :]
        if path.d1 == 1:
            torch.mul(values_grad, source, out=radial_grad[..., number, None, :])
        else:
            torch.sum(values_grad * source, 3, out=radial_grad[..., number, :])
        if neighbours_grad is not None:
            neighbours_grad[..., components, :].addcmul_(
                values_grad, block.radial[..., number, None, :]
            )
        product = torch.matmul(block.values[number], grad.transpose(-1, -2))
        tensor_grad[..., path.columns] = product.view(members, count * slots, -1)
    harmonics_grad = torch.matmul(tensor_grad, shared.coupling.T)
    return radial_grad, harmonics_grad, neighbours_grad


def _add_rows(total: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add rows (M, slots, ...) to total (M, rows, ...) where the index says."""
    members, count = total.shape[:2]
    if members > 1:
        starts = torch.arange(0, members * count, count, device=index.device)
        index = (index + starts.unsqueeze(1)).view(-1)
    total.view(members * count, -1).index_add_(0, index, rows.view(len(index), -1))
