"""The ANI-1x and ANI-1ccx committees: eight members for less than the price of one mean.

Members share the environment of each atom (the AEV of Smith, Isayev and
Roitberg, Chem. Sci. 8, 3192 (2017), eqs. 3 and 4) and differ in their networks
only.  So the AEV and its derivative are computed once; the members' networks
are stacked per element, with their input gradient in closed form; and one pass
over pairs and triples contracts the gradients of all members to forces.  No
autograd graph is built.  Elements that a batch does not contain have no AEV
columns in it: the first layer is cut to the columns that can be non-zero.

Pair vectors are formed in float64, so that molecules far from the origin keep
their digits; AEVs and networks are float32, energies and forces are summed in
float64.  Checked against torchani 2.0.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import Hartree
from numpy.typing import NDArray
from torch import Tensor

from hybrid_calc.committee.aev import (
    AevConstants,
    aev_columns,
    angular_terms,
    atom_gradients,
    find_neighbours,
    radial_terms,
)
from hybrid_calc.committee.domain import refuse_outside
from hybrid_calc.committee.prediction import NEUTRAL_SINGLET, CommitteeInfo, Domain, Prediction
from hybrid_calc.errors import CommitteeError, MissingPackageError
from hybrid_calc.reference.level import LevelOfTheory

LEVELS = {
    "ani-1x": LevelOfTheory(program="gaussian", functional="wb97x", basis="6-31g*", cart=True),
    "ani-1ccx": LevelOfTheory(program="orca", functional="ccsd(t)*", basis="cbs"),
}
"""What each model was trained on: Smith et al., Sci. Data 7, 134 (2020)."""

NAMES = {"ani-1x": "ANI-1x", "ani-1ccx": "ANI-1ccx"}
CELU_ALPHA = 0.1
ATOMS_PER_PASS = 256
"""Bounds memory and keeps intermediates in the cache: larger ones measured slower."""


class AniCommittee:
    """The eight members of ANI-1x or ANI-1ccx, for neutral closed-shell H, C, N, O molecules.

    A descriptor is the last hidden layer of all members side by side, (N, 8 x 96),
    over sqrt(8).  Members number their hidden units differently, so a mean over
    members would blur them; side by side, the squared distance of two
    descriptors is the mean over members of that member's squared distance.
    Each element has networks of its own: compare atoms of one element only.

    Parameters
    ----------
    model
        ``ani-1x`` or ``ani-1ccx``; the weights come with torchani.

    Raises
    ------
    MissingPackageError
        torchani is not installed, or setuptools is too new for it.
    CommitteeError
        Unknown model, or one whose layout this module was not written for.
    """

    def __init__(self, model: str = "ani-1x") -> None:
        if model not in LEVELS:
            raise CommitteeError(f"ANI model is {model!r}; it must be one of {', '.join(LEVELS)}.")
        stock = _load_stock(model)
        self._constants = _read_constants(stock.aev_computer)
        self._networks = _stack_networks(stock)
        self._self_energies = stock.energy_shifter.self_energies.double().numpy()
        numbers = [atomic_numbers[symbol] for symbol in stock.species]
        self._species = np.full(max(numbers) + 1, -1)
        self._species[numbers] = np.arange(len(numbers))
        self._reduced: dict[tuple[int, ...], tuple[ElementNetworks, ...]] = {}
        self._info = CommitteeInfo(
            conservative=True,
            name=NAMES[model],
            identity=_digest(self._constants, self._networks, self._self_energies),
            size=len(self._networks[0].weights[0]),
            domain=Domain(elements=frozenset(numbers), periodic=False, **NEUTRAL_SINGLET),
            cutoff=self._constants.radial_cutoff,
            level=LEVELS[model],
            source="torchani 2.0 wheel, MIT",
        )

    @property
    def info(self) -> CommitteeInfo:
        """Who is answering."""
        return self._info

    def predict(self, atoms: Atoms) -> Prediction:
        """Answer one molecule; see `Committee.predict` for the refusals."""
        return self.predict_many([atoms])[0]

    def predict_many(self, frames: Sequence[Atoms]) -> list[Prediction]:
        """Answer several molecules of any composition, up to 256 atoms in one pass."""
        for atoms in frames:
            refuse_outside(atoms, self._info)
        return [answer for group in _passes(frames) for answer in self._answer(group)]

    def close(self) -> None:
        """Do nothing; there is nothing to release."""

    def _answer(self, frames: Sequence[Atoms]) -> list[Prediction]:
        """Answer the frames of one pass without asking whether they are in the domain."""
        species = self._species[np.concatenate([atoms.numbers for atoms in frames])]
        present = tuple(np.unique(species).tolist())
        local = np.searchsorted(present, species)
        near = find_neighbours([atoms.positions for atoms in frames], self._constants)
        with torch.inference_mode():
            radial = radial_terms(self._constants, near, local, len(present))
            angular = angular_terms(self._constants, near, local, len(present))
            values = torch.cat([radial.values, angular.values], dim=1)
            networks = self._networks_for(present)
            energies, gradients, hidden = evaluate_networks(networks, values, local)
            slopes = atom_gradients(near, radial, angular, gradients)
        forces = -Hartree * np.ascontiguousarray(slopes.numpy().transpose(2, 0, 1))
        atomic = energies.double().numpy() + self._self_energies[species]
        ends = np.cumsum([len(atoms) for atoms in frames])[:-1]
        return [
            Prediction(energies=e.sum(axis=1) * Hartree, forces=f, descriptors=d)
            for e, f, d in zip(
                np.split(atomic, ends, axis=1),
                np.split(forces, ends, axis=1),
                np.split(hidden.double().numpy(), ends),
                strict=True,
            )
        ]

    def _networks_for(self, present: tuple[int, ...]) -> tuple[ElementNetworks, ...]:
        """Return the networks of these elements, first layers cut to their AEV columns."""
        if present not in self._reduced:
            columns = aev_columns(present, len(self._networks), self._constants)
            self._reduced[present] = tuple(
                ElementNetworks(
                    weights=(full.weights[0][:, columns].contiguous(), *full.weights[1:]),
                    biases=full.biases,
                )
                for full in (self._networks[element] for element in present)
            )
        return self._reduced[present]


def _passes(frames: Sequence[Atoms]) -> Iterator[list[Atoms]]:
    """Yield the frames in groups of at most ATOMS_PER_PASS atoms, or one frame."""
    group: list[Atoms] = []
    for atoms in frames:
        if group and sum(map(len, group)) + len(atoms) > ATOMS_PER_PASS:
            yield group
            group = []
        group.append(atoms)
    if group:
        yield group


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementNetworks:
    """One element's network in M members, layer by layer.

    Attributes
    ----------
    weights
        Shape (M, in, out) per layer; the last has out = 1.
    biases
        Shape (M, 1, out) per layer.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]


def evaluate_networks(
    networks: Sequence[ElementNetworks], values: Tensor, species: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each atom's energy in all members, its AEV gradient, and its last hidden layer.

    Returns
    -------
    energies
        hartree, shape (M, N).
    gradients
        hartree, shape (N, M, L).
    descriptors
        Members side by side over sqrt(M), shape (N, M x hidden).
    """
    members, width = networks[0].weights[-1].shape[:2]
    energies = values.new_empty((members, len(values)))
    gradients = values.new_empty((len(values), members, values.shape[1]))
    descriptors = values.new_empty((len(values), members, width))
    for element, network in enumerate(networks):
        atoms = torch.from_numpy(np.flatnonzero(species == element))
        energy, gradient, hidden = network_gradient(network, values[atoms])
        energies[:, atoms] = energy
        gradients[atoms] = gradient.transpose(0, 1)
        descriptors[atoms] = hidden.transpose(0, 1)
    return energies, gradients, descriptors.flatten(1) / math.sqrt(members)


def network_gradient(network: ElementNetworks, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return output (M, n), its input gradient (M, n, L) and last hidden layer (M, n, H).

    ``inputs`` has shape (n, L).  For CELU(x) = x above 0 and a (exp(x/a) - 1) below, the
    slope is min(1, CELU(x)/a + 1): no second exponential.
    """
    hidden = inputs.expand(len(network.weights[0]), *inputs.shape)
    slopes = []
    for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
        hidden = torch.celu(torch.baddbmm(bias, hidden, weight), CELU_ALPHA)
        slopes.append(torch.clamp(hidden / CELU_ALPHA + 1, max=1))
    output = torch.baddbmm(network.biases[-1], hidden, network.weights[-1])
    gradient = network.weights[-1].transpose(1, 2)
    for weight, slope in zip(network.weights[-2::-1], slopes[::-1], strict=True):
        gradient = torch.bmm(gradient * slope, weight.transpose(1, 2))
    return output[..., 0], gradient, hidden


def _import_torchani() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pkg_resources is deprecated
            return importlib.import_module("torchani")
    except ImportError as error:
        raise MissingPackageError(
            f'ANI committees need torchani ({error}): pip install "torchani==2.0" "setuptools<81"'
        ) from error


def _load_stock(model: str) -> Any:
    torchani = _import_torchani()
    with torch.random.fork_rng(devices=[]):  # its layers draw random weights before they are read
        return {"ani-1x": torchani.models.ANI1x, "ani-1ccx": torchani.models.ANI1ccx}[model]()


def _read_constants(computer: Any) -> AevConstants:
    names = ("EtaR", "ShfR", "EtaA", "ShfA", "Zeta", "ShfZ")
    values = {name: getattr(computer, name).float().double().flatten() for name in names}
    odd = [name for name in ("EtaR", "EtaA", "Zeta") if len(values[name]) != 1]
    if odd:
        raise CommitteeError(f"one width and power per kind was expected; {odd} have several.")
    return AevConstants(
        radial_cutoff=float(computer.Rcr),
        angular_cutoff=float(computer.Rca),
        radial_eta=float(values["EtaR"]),
        radial_shifts=values["ShfR"],
        angular_eta=float(values["EtaA"]),
        angular_shifts=values["ShfA"],
        zeta=int(values["Zeta"]),
        angles=values["ShfZ"],
    )


def _stack_networks(stock: Any) -> tuple[ElementNetworks, ...]:
    stacked = []
    for symbol in stock.species:
        members = [list(member[symbol]) for member in stock.neural_networks]
        activations = {getattr(layer, "alpha", None) for net in members for layer in net[1::2]}
        if activations != {CELU_ALPHA}:
            raise CommitteeError(f"CELU({CELU_ALPHA}) was expected; torchani has {activations}.")
        layers = list(zip(*(net[::2] for net in members), strict=True))
        stacked.append(
            ElementNetworks(
                weights=tuple(
                    torch.stack([m.weight.detach().T for m in x]).float() for x in layers
                ),
                biases=tuple(
                    torch.stack([m.bias.detach()[None] for m in x]).float() for x in layers
                ),
            )
        )
    widths = {network.weights[-1].shape[1] for network in stacked}
    if len(widths) != 1:
        raise CommitteeError(f"last hidden layers of one width were expected; got {widths}.")
    return tuple(stacked)


def _digest(
    aev: AevConstants, networks: Sequence[ElementNetworks], energies: NDArray[np.float64]
) -> str:
    """Return the identity of everything that moves an answer, 16 hex digits."""
    digest = hashlib.sha256(energies.tobytes())
    for value in dataclasses.astuple(aev):
        digest.update(np.asarray(value, dtype=np.float64).tobytes())
    for network in networks:
        for tensor in (*network.weights, *network.biases):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
