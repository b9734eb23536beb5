"""A stack of MACE networks over many frames: forward and backward, all members in one pass.

All members' energies, their gradients with respect to every pair's vector, and
the invariant node features.  What does not depend on a member (distances,
harmonics, radial basis and their derivatives) comes with the `Graph`, computed
once.  Layout: member M, atom N sorted by element, component D, channel C last.

Batatia et al., MACE, NeurIPS 2022 (arXiv:2206.07697), equations 7 to 13.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_calc.committee.convolution import Convolution, Receivers
from hybrid_calc.committee.polynomial import Group, Polynomial
from hybrid_calc.committee.stack import ACTIVATIONS, Block, Layer, Readout, Stack, take


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFeatures:
    """What all members see of the pairs; the last pair is empty, beyond the cut-off.

    Attributes
    ----------
    first, second
        Atoms of each pair, shape (P,).
    forward, backward
        The pair's edges, to ``second`` and to ``first``, shape (P,).
    distance
        Length, A, shape (P, 1).
    unit
        Direction to ``second``, shape (P, 3).
    harmonics_slope
        Derivative of the harmonics with respect to the vector, 1/A, shape (P, S, 3).
    parity
        Sign of each harmonic where the direction is turned round, shape (S,).
    radial, radial_slope
        Radial basis and its derivative, 1/A, shape (P, B).
    envelope, envelope_slope
        Cut-off function where it is not part of the basis, and its derivative,
        1/A, shape (P, 1), or None.
    energy, energy_slope
        Energy per atom that does not depend on the member (screened nuclear
        repulsion), eV, shape (N,), and the derivative of its sum, eV/A, shape
        (P, 1), or None.
    """

    first: Tensor
    second: Tensor
    forward: Tensor
    backward: Tensor
    distance: Tensor
    unit: Tensor
    harmonics_slope: Tensor
    parity: Tensor
    radial: Tensor
    radial_slope: Tensor
    envelope: Tensor | None
    envelope_slope: Tensor | None
    energy: Tensor | None
    energy_slope: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Frames to evaluate, their atoms sorted by element.

    Attributes
    ----------
    species
        Element index, ascending, shape (N,).
    groups
        The atoms of each element.
    frame
        Frame an atom belongs to, shape (N,).
    frames
        Number of frames F.
    pairs
        Pairs of neighbours.
    edges
        Number of edges E, one more than twice the pairs that are not empty.
    receivers
        The edges by the atom they end at.
    members_at_once
        Members to evaluate together: all where the overhead counts, one where
        the cache does.
    """

    species: Tensor
    groups: tuple[Group, ...]
    frame: Tensor
    frames: int
    pairs: PairFeatures
    edges: int
    receivers: tuple[Receivers, ...]
    members_at_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Energies (M, F) in eV, pair gradients (M, P, 3) in eV/A, invariants (M, N, layers C)."""

    energies: Tensor
    pair_gradients: Tensor
    invariants: Tensor


def evaluate(stack: Stack, graph: Graph) -> Answer:
    """Run all members over all frames, forward and backward."""
    members, at_once = stack.scale.shape[0], graph.members_at_once
    if at_once >= members:
        return _evaluate(stack, graph)
    parts = [
        _evaluate(take(stack, first, min(first + at_once, members)), graph)
        for first in range(0, members, at_once)
    ]
    return Answer(
        energies=torch.cat([part.energies for part in parts]),
        pair_gradients=torch.cat([part.pair_gradients for part in parts]),
        invariants=torch.cat([part.invariants for part in parts]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaves:
    """Where the gradients of a pass end: radial basis, harmonics per edge, cut-off function."""

    radial: Tensor
    harmonics: Tensor
    envelope: Tensor | None

    @classmethod
    def of(cls, pairs: PairFeatures, edges: int, members: int) -> _Leaves:
        def leaf(value: Tensor, *shape: int) -> Tensor:
            return value.detach().expand(members, *shape).requires_grad_()

        width = len(pairs.parity)
        return cls(
            radial=leaf(pairs.radial, *pairs.radial.shape),
            harmonics=leaf(pairs.radial.new_zeros(()), edges, width),
            envelope=None
            if pairs.envelope is None
            else leaf(pairs.envelope, *pairs.envelope.shape),
        )


def _evaluate(stack: Stack, graph: Graph) -> Answer:
    members, pairs = stack.scale.shape[0], graph.pairs
    with torch.enable_grad():
        leaves = _Leaves.of(pairs, graph.edges, members)
        features, invariants = None, []
        for layer in stack.layers:
            features = _apply_layer(layer, features, leaves, graph)
            invariants.append(features[:, :, 0])
        parts = [_read(readout, invariants) for readout in stack.readouts]
        node_energies = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        wanted = [leaves.radial, leaves.harmonics]
        wanted += [] if leaves.envelope is None else [leaves.envelope]
        found = torch.autograd.grad((node_energies * stack.scale).sum(), wanted)
    with torch.no_grad():
        gradients = _pair_gradients(pairs, *found)
        if pairs.energy is not None and pairs.energy_slope is not None:
            node_energies = node_energies + pairs.energy
            gradients += stack.scale.unsqueeze(-1) * pairs.energy_slope * pairs.unit
        node_energies = (node_energies * stack.scale + stack.shift).double()
        node_energies = node_energies + stack.atomic_energies.index_select(1, graph.species)
        energies = node_energies.new_zeros(members, graph.frames)
        energies.index_add_(1, graph.frame, node_energies)
        invariant = torch.cat(invariants, -1).detach()
    return Answer(energies=energies, pair_gradients=gradients, invariants=invariant)


def _pair_gradients(
    pairs: PairFeatures, radial: Tensor, harmonics: Tensor, envelope: Tensor | None = None
) -> Tensor:
    """Return the derivative with respect to each pair's vector, from those of its features."""
    turned = harmonics.index_select(1, pairs.backward) * pairs.parity
    both = harmonics.index_select(1, pairs.forward).add_(turned)
    across = (both.unsqueeze(-1) * pairs.harmonics_slope).sum(-2)
    along = (radial * pairs.radial_slope).sum(-1, keepdim=True)
    if envelope is not None and pairs.envelope_slope is not None:
        along += envelope * pairs.envelope_slope
    return across.addcmul_(along, pairs.unit)


def _apply_layer(layer: Layer, features: Tensor | None, leaves: _Leaves, graph: Graph) -> Tensor:
    """Return features (M, N, D, C) after one interaction and product."""
    past: Tensor | None = None
    if features is None:
        neighbours = _look_up(layer.up_table, graph.species)
        if layer.skip_table is not None:
            past = _look_up(layer.skip_table, graph.species)
    else:
        neighbours = _map(features, layer.up or (), features.shape[2], graph)
        if layer.skip:
            past = _map(features, layer.skip, layer.components, graph)
    radial = leaves.radial
    for matrix in layer.network[:-1]:
        radial = torch.nn.functional.silu(torch.bmm(radial, matrix))
    if leaves.envelope is not None:
        radial = radial * leaves.envelope
    radial = torch.bmm(radial, layer.network[-1])
    messages = Convolution.apply(
        neighbours, radial, leaves.harmonics, layer.couplings, graph.receivers
    )
    mixed = [_matrix(m, w, graph) for m, w in zip(messages, layer.mix, strict=True)]
    message = torch.cat(mixed, 2)
    if layer.density is not None:
        message = message / (_density(layer.density, leaves, graph).unsqueeze(-1) + 1)
    basis = Polynomial.apply(message, layer.polynomial, graph.groups)
    product = _map(basis, layer.product, layer.components, graph)
    return product if past is None else product + past


def _density(matrix: Tensor, leaves: _Leaves, graph: Graph) -> Tensor:
    """Return the learned number of neighbours of each atom, shape (M, N, 1)."""
    part = torch.tanh(torch.bmm(leaves.radial, matrix) ** 2)
    if leaves.envelope is not None:
        part = part * leaves.envelope
    empty = part.new_zeros(len(matrix), len(graph.species), 1)
    some = empty.index_add(1, graph.pairs.first, part)
    return some.index_add(1, graph.pairs.second, part)


def _look_up(table: Tensor | None, species: Tensor) -> Tensor:
    if table is None:
        raise ValueError("the first layer needs a table of its features per element.")
    return table.index_select(1, species)


def _map(features: Tensor, blocks: tuple[Block, ...], components: int, graph: Graph) -> Tensor:
    """Apply a linear map between irreps; components that no block reaches are zero."""
    parts: dict[int, Tensor] = {}
    for block in blocks:
        part = _matrix(features[:, :, block.source], block.weight, graph)
        first = block.target.start
        parts[first] = parts[first] + part if first in parts else part
    ordered = [parts[first] for first in sorted(parts)]
    mapped = ordered[0] if len(ordered) == 1 else torch.cat(ordered, 2)
    if mapped.shape[2] == components:
        return mapped
    return torch.nn.functional.pad(mapped, (0, 0, 0, components - mapped.shape[2]))


def _matrix(features: Tensor, weight: Tensor, graph: Graph) -> Tensor:
    """Multiply the channels of (M, N, d, C), by one matrix or by one per element."""
    members, _, width, channels = features.shape
    if weight.dim() == 3:
        flat = features.reshape(members, -1, channels)
        return torch.bmm(flat, weight).view(members, -1, width, weight.shape[-1])
    parts = []
    for group in graph.groups:
        flat = features[:, group.first : group.last].reshape(members, -1, channels)
        product = torch.bmm(flat, weight[:, group.element])
        parts.append(product.view(members, -1, width, weight.shape[-1]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _read(readout: Readout, invariants: list[Tensor]) -> Tensor:
    """Return node energies (M, N) of one readout."""
    values = invariants[readout.layer]
    if readout.matrix is not None:
        values = ACTIVATIONS[readout.activation](torch.bmm(values, readout.matrix))
    return torch.bmm(values, readout.vector).squeeze(-1)
