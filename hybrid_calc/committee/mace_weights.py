"""The one module that knows MACE's insides: members of one architecture to a `Stack`.

Checked with mace-torch 0.3.16, e3nn 0.4.4 and torch 2.13.  Linear maps are read
by applying MACE's own modules to unit vectors, so their normalisation and the
precision they were saved in are taken over as they are; `hybrid_calc.committee.mace`
compares the result with MACE itself at every load.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from hybrid_calc.committee.convolution import Couplings, Path
from hybrid_calc.committee.edges import BesselRadial, DifferentiatedRadial, Harmonics, Radial
from hybrid_calc.committee.evaluate import Graph
from hybrid_calc.committee.polynomial import MAX_ORDER, SymmetricPolynomial
from hybrid_calc.committee.stack import ACTIVATIONS, Block, Layer, Readout, Stack
from hybrid_calc.errors import CommitteeError

MODELS = ("MACE", "ScaleShiftMACE")
RESIDUAL = ("RealAgnosticResidualInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
PLAIN = ("RealAgnosticInteractionBlock", "RealAgnosticDensityInteractionBlock")
READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock")


def check_supported(model: Any, label: str) -> None:
    """Refuse a network this module cannot read.

    Raises
    ------
    CommitteeError
        Another class, block or feature than those checked.
    """
    strange = []
    if type(model).__name__ not in MODELS:
        strange.append(f"class {type(model).__name__}")
    else:
        found = [type(part).__name__ for part in (*model.interactions, *model.readouts)]
        strange += [name for name in found if name not in RESIDUAL + PLAIN + READOUTS]
        strange += [
            name for name in ("joint_embedding", "embedding_readout") if hasattr(model, name)
        ]
        if any(getattr(product, "use_agnostic_product", False) for product in model.products):
            strange.append("use_agnostic_product")
        if any(hasattr(interaction, "conv_fusion") for interaction in model.interactions):
            strange.append("an accelerated backend (cuEquivariance or OpenEquivariance)")
        if any(order > MAX_ORDER for part in model.products for order in _correlation(part)):
            strange.append(f"correlation above {MAX_ORDER}")
    if strange:
        raise CommitteeError(
            f"{label} cannot be stacked: it has {', '.join(strange)}; known are "
            f"{', '.join(MODELS)} of {', '.join(RESIDUAL + PLAIN)}, correlation up to {MAX_ORDER}. "
            "Run the members one by one with MembersCommittee."
        )


def architecture(model: Any) -> dict[str, Any]:
    """Return what members must share to be stacked, JSON-able."""
    radial = model.radial_embedding
    return {
        "class": type(model).__name__,
        "r_max": float(model.r_max),
        "elements": [int(number) for number in model.atomic_numbers],
        "heads": list(getattr(model, "heads", None) or ["Default"]),
        "interactions": [type(part).__name__ for part in model.interactions],
        "irreps": [str(part.linear.irreps_out) for part in model.products],
        "message_irreps": [str(part.irreps_out) for part in model.interactions],
        "path_irreps": [str(part.conv_tp.irreps_out) for part in model.interactions],
        "radial_network": [list(part.conv_tp_weights.hs) for part in model.interactions],
        "correlation": [_correlation(part) for part in model.products],
        "readouts": [_shape(part) for part in model.readouts],
        "radial_basis": type(radial.bessel_fn).__name__,
        "distance_transform": type(getattr(radial, "distance_transform", None)).__name__,
        "radial_numbers": _numbers(radial),
        "apply_cutoff": bool(getattr(radial, "apply_cutoff", True)),
        "pair_repulsion": _numbers(getattr(model, "pair_repulsion_fn", None)),
    }


def read_member(model: Any, head: int) -> Stack:
    """Read one network (in float64, on the CPU) as a stack of one."""
    layers = tuple(_layer(model, index) for index in range(len(model.interactions)))
    places = range(len(layers)) if len(model.readouts) > 1 else [len(layers) - 1]
    scaled = getattr(model, "scale_shift", None)
    scale = torch.atleast_1d(scaled.scale)[head] if scaled is not None else torch.tensor(1.0)
    shift = torch.atleast_1d(scaled.shift)[head] if scaled is not None else torch.tensor(0.0)
    energies = torch.atleast_2d(model.atomic_energies_fn.atomic_energies)[head]
    return Stack(
        layers=layers,
        readouts=tuple(
            _readout(part, place, head) for part, place in zip(model.readouts, places, strict=True)
        ),
        scale=scale.double().view(1, 1),
        shift=shift.double().view(1, 1),
        atomic_energies=energies.double().view(1, -1),
    )


def _layer(model: Any, index: int) -> Layer:
    """Read one interaction and its product."""
    interaction, product = model.interactions[index], model.products[index]
    elements = torch.eye(len(model.atomic_numbers), dtype=torch.float64)
    couplings, slots = _couplings(interaction)
    skip: tuple[Block, ...] = ()
    up: tuple[Block, ...] | None = None
    up_table = skip_table = None
    residual = type(interaction).__name__ in RESIDUAL
    if index == 0:
        embedded = model.node_embedding(elements)
        up_table = _table(interaction.linear_up(embedded), interaction.linear_up.irreps_out)
        if residual and product.use_sc:
            passed = interaction.skip_tp(embedded, elements)
            skip_table = _table(passed, interaction.skip_tp.irreps_out)
    else:
        up = _blocks(interaction.linear_up, interaction.linear_up)
        if residual and product.use_sc:
            skip = _blocks(interaction.skip_tp, interaction.skip_tp, elements)
    return Layer(
        up=up,
        up_table=up_table,
        network=_network(interaction.conv_tp_weights),
        density=_network(interaction.density_fn)[0] if _has_density(interaction) else None,
        couplings=couplings,
        mix=_mix(interaction, slots, None if residual else elements),
        polynomial=_polynomial(product),
        product=_blocks(product.linear, product.linear),
        skip=skip,
        skip_table=skip_table,
        components=sum(ir.dim for _, ir in product.linear.irreps_out),
    )


def _has_density(interaction: Any) -> bool:
    return hasattr(interaction, "density_fn")


def _couplings(interaction: Any) -> tuple[Couplings, list[list[int]]]:
    """Return the paths and, per slot of the message, its slots among them."""
    product = interaction.conv_tp
    sources = _offsets(product.irreps_in1)
    targets = [ir for _, ir in interaction.linear.irreps_out]
    slots: list[list[int]] = [[] for _ in targets]
    paths, tensors, column = [], [], 0
    for number, instruction in enumerate(product.instructions):
        ir = product.irreps_out[instruction.i_out].ir
        output = targets.index(ir)
        source = product.irreps_in1[instruction.i_in1].ir
        paths.append(
            Path(
                first=sources[instruction.i_in1],
                d1=source.dim,
                d3=ir.dim,
                output=output,
                rank=len(slots[output]),
                columns=slice(column, column + source.dim * ir.dim),
            )
        )
        column += source.dim * ir.dim
        slots[output].append(instruction.i_out)
        tensors.append(_coupling(product, number))
    couplings = Couplings(
        coupling=torch.cat(tensors, 1),
        paths=tuple(paths),
        outputs=tuple((ir.dim, len(found)) for ir, found in zip(targets, slots, strict=True)),
    )
    return couplings, slots


def _coupling(product: Any, number: int) -> Tensor:
    """Return the coupling tensor of one path, shape (harmonics, d1 d3)."""
    instruction = product.instructions[number]
    channels, source = product.irreps_in1[instruction.i_in1]
    width = product.irreps_out[instruction.i_out].ir.dim
    harmonics = product.irreps_in2.dim
    features = torch.zeros(source.dim, product.irreps_in1.dim, dtype=torch.float64)
    place = product.irreps_in1.slices()[instruction.i_in1]
    features[:, place] = torch.eye(source.dim, dtype=torch.float64).repeat(1, channels)
    weights = torch.zeros(product.weight_numel, dtype=torch.float64)
    weights[number * channels : (number + 1) * channels] = 1.0
    messages = product(
        features.repeat(harmonics, 1),
        torch.eye(harmonics, dtype=torch.float64).repeat_interleave(source.dim, 0),
        weights.expand(harmonics * source.dim, -1),
    )
    first = product.irreps_out.slices()[instruction.i_out].start
    return cast(Tensor, messages[:, first : first + width].reshape(harmonics, -1))


def _mix(interaction: Any, slots: list[list[int]], elements: Tensor | None) -> tuple[Tensor, ...]:
    """Return per slot of the message the matrix from all its paths' channels."""
    linear = interaction.linear
    units = linear(torch.eye(linear.irreps_in.dim, dtype=torch.float64))
    if elements is not None:
        each = [interaction.skip_tp(units, one.expand(len(units), -1)) for one in elements]
        units = torch.stack(each)
    if not _has_density(interaction):
        units = units / float(interaction.avg_num_neighbors)
    mixed = []
    for output, (channels, ir) in enumerate(linear.irreps_out):
        last = linear.irreps_out.slices()[output].start
        columns = slice(last, last + channels * ir.dim, ir.dim)
        rows = [_channel_rows(linear.irreps_in, slot) for slot in slots[output]]
        row = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
        mixed.append(units[..., row, columns].unsqueeze(0).contiguous())
    return tuple(mixed)


def _channel_rows(irreps: Any, slot: int) -> Tensor:
    """Return the places of the first component of every channel of a slot."""
    place, dim = irreps.slices()[slot], irreps[slot].ir.dim
    return torch.arange(place.start, place.stop, dim)


def _blocks(module: Any, shape: Any, elements: Tensor | None = None) -> tuple[Block, ...]:
    """Read a linear map between irreps, one matrix per pair of equal irreps."""
    source = shape.irreps_in if elements is None else shape.irreps_in1
    target = shape.irreps_out
    units = torch.eye(source.dim, dtype=torch.float64)
    if elements is None:
        matrix = module(units)
    else:
        matrix = torch.stack([module(units, one.expand(len(units), -1)) for one in elements])
    blocks = []
    into, out_of = _offsets(target), _offsets(source)
    for b, (_, ir_out) in enumerate(target):
        for a, (_, ir_in) in enumerate(source):
            if ir_in == ir_out:
                rows, columns = _channel_rows(source, a), _channel_rows(target, b)
                weight = matrix[..., rows, :][..., columns].unsqueeze(0).contiguous()
                blocks.append(
                    Block(
                        source=slice(out_of[a], out_of[a] + ir_in.dim),
                        target=slice(into[b], into[b] + ir_out.dim),
                        weight=weight,
                    )
                )
    return tuple(blocks)


def _offsets(irreps: Any) -> list[int]:
    """Return the first component of each slot when channels are a separate axis."""
    offsets = [0]
    for _, ir in irreps:
        offsets.append(offsets[-1] + ir.dim)
    return offsets[:-1]


def _table(rows: Tensor, irreps: Any) -> Tensor:
    """Return features per element (elements, dim) as (1, elements, D, C)."""
    parts = [
        rows[:, place].view(len(rows), channels, ir.dim).transpose(1, 2)
        for place, (channels, ir) in zip(irreps.slices(), irreps, strict=True)
    ]
    return torch.cat(parts, 1).unsqueeze(0).contiguous()


def _polynomial(product: Any) -> SymmetricPolynomial:
    bases, weights = [], []
    for contraction, (_, ir) in zip(
        product.symmetric_contractions.contractions, product.linear.irreps_in, strict=True
    ):
        order = int(contraction.correlation)
        buffers = dict(contraction.named_buffers())
        tensors = [buffers[f"U_matrix_{n}"] for n in range(1, order + 1)]
        bases.append(tuple(u.unsqueeze(0) if ir.l == 0 else u for u in tensors))
        lower = [contraction.weights[order - 1 - n] for n in range(1, order)]
        weights.append(tuple(w.detach().unsqueeze(0) for w in (*lower, contraction.weights_max)))
    return SymmetricPolynomial(bases=tuple(bases), weights=tuple(weights))


def _network(net: Any) -> tuple[Tensor, ...]:
    """Return a radial network's matrices with every normalisation folded in."""
    matrices, factor = [], 1.0
    for layer in net:
        scale = layer.h_in * layer.var_in
        if layer.act is None:
            scale /= layer.var_out
        matrices.append((layer.weight.detach() * factor / scale**0.5).unsqueeze(0))
        if layer.act is not None:
            name, constant = _activation(layer.act)
            if name != "silu":
                raise CommitteeError(
                    f"a radial network with {name} cannot be stacked; silu is known."
                )
            factor = constant * layer.var_out**0.5
    return tuple(matrices)


def _readout(part: Any, layer: int, head: int) -> Readout:
    if type(part).__name__ == "LinearReadoutBlock":
        rows = _channel_rows(part.linear.irreps_in, 0)
        units = part.linear(torch.eye(part.linear.irreps_in.dim, dtype=torch.float64))
        return Readout(layer=layer, vector=units[rows, head].view(1, -1, 1))
    first, second = part.linear_1, part.linear_2
    rows = _channel_rows(first.irreps_in, 0)
    matrix = first(torch.eye(first.irreps_in.dim, dtype=torch.float64))[rows]
    vector = second(torch.eye(second.irreps_in.dim, dtype=torch.float64))[:, head]
    width = len(vector) // int(getattr(part, "num_heads", 1))
    own = slice(head * width, (head + 1) * width)
    acts = part.non_linearity.acts
    name, constant = _activation(acts[0]) if acts[0] is not None else ("identity", 1.0)
    return Readout(
        layer=layer,
        activation=name,
        matrix=matrix[:, own].unsqueeze(0).contiguous(),
        vector=(vector[own] * constant).view(1, -1, 1),
    )


def _activation(act: Callable[[Tensor], Tensor]) -> tuple[str, float]:
    """Name a function that is a known activation times a constant."""
    grid = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64)
    values = act(grid)
    for name, known in ACTIVATIONS.items():
        expected = known(grid)
        constant = float(values[-1] / expected[-1])
        if torch.allclose(values, constant * expected, rtol=1e-12, atol=1e-14):
            return name, constant
    raise CommitteeError(
        f"the activation {act} cannot be stacked; known are {', '.join(ACTIVATIONS)}. "
        "Run the members one by one with MembersCommittee."
    )


def _correlation(product: Any) -> list[int]:
    return [int(part.correlation) for part in product.symmetric_contractions.contractions]


def _shape(readout: Any) -> str:
    return f"{type(readout).__name__} {getattr(readout, 'hidden_irreps', '')}".strip()


def _numbers(module: nn.Module | None) -> dict[str, list[float]] | None:
    """Return the constants of a function that all members share, to compare them."""
    if module is None:
        return None
    return {
        name: [float(f"{value:.6g}") for value in tensor.double().flatten().tolist()]
        for name, tensor in sorted(module.state_dict().items())
        if name.rpartition(".")[2] != "covalent_radii"
    }


def harmonics(model: Any) -> Harmonics:
    """Return the spherical harmonics of a network."""
    module = model.spherical_harmonics
    return Harmonics(module, [ir.l for _, ir in module.irreps_out])


def radial(model: Any) -> Radial:
    """Return the radial basis of a network."""
    module = copy.deepcopy(model.radial_embedding)
    basis, envelope = module.bessel_fn, module.cutoff_fn
    if type(basis).__name__ != "BesselBasis" or hasattr(module, "distance_transform"):
        return DifferentiatedRadial(module)
    return BesselRadial(
        basis.bessel_weights.detach(),
        float(basis.prefactor),
        float(envelope.r_max),
        int(envelope.p),
        apart=not getattr(module, "apply_cutoff", True),
    )


def probe(model: Any, graph: Graph, head: int) -> tuple[Tensor, Tensor]:
    """Ask MACE itself: energies (F,) in eV and forces (N, 3) in eV/A, atoms as in the graph."""
    pairs = graph.pairs
    near = torch.nonzero(pairs.distance[:, 0] < model.r_max)[:, 0]
    first, second, vectors = pairs.first[near], pairs.second[near], pairs.unit * pairs.distance
    ends = torch.stack([torch.cat([first, second]), torch.cat([second, first])])
    one_hot = torch.nn.functional.one_hot(graph.species, len(model.atomic_numbers))
    data = {
        "positions": torch.zeros(len(graph.species), 3, dtype=torch.float64),
        "shifts": torch.cat([vectors[near], -vectors[near]]),
        "unit_shifts": torch.zeros(2 * len(near), 3, dtype=torch.float64),
        "cell": torch.zeros(3 * graph.frames, 3, dtype=torch.float64),
        "edge_index": ends,
        "node_attrs": one_hot.double(),
        "batch": graph.frame,
        "ptr": torch.zeros(graph.frames + 1, dtype=torch.int64),
        "head": torch.full((graph.frames,), head),
    }
    answer = model(data, compute_force=True)
    return answer["energy"].detach(), answer["forces"].detach()


def identifying_tensors(model: Any) -> dict[str, Tensor]:
    """Return every number that training sets: what makes one member differ from another."""
    tensors = dict(model.named_parameters())
    tensors["atomic_energies"] = torch.atleast_2d(model.atomic_energies_fn.atomic_energies)
    if hasattr(model, "scale_shift"):
        tensors["scale"] = torch.atleast_1d(model.scale_shift.scale)
        tensors["shift"] = torch.atleast_1d(model.scale_shift.shift)
    for number, part in enumerate(model.interactions):
        tensors[f"avg_num_neighbors.{number}"] = torch.tensor([float(part.avg_num_neighbors)])
    return tensors
