"""A committee of MACE networks, all members in one pass.

The members' weights are read into one `Stack` by `mace_weights`, the only
module that knows MACE's insides (checked with mace-torch 0.3.16, e3nn 0.4.4,
torch 2.13).  MACE itself runs once per member, at load, to confirm energies
and forces of a probe.  Importing and loading leave torch's default dtype and
thread count and the process environment as they were.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import nn

from hybrid_calc.committee import mace_weights
from hybrid_calc.committee.compiled import CompiledStack
from hybrid_calc.committee.domain import refuse_outside
from hybrid_calc.committee.evaluate import Answer, evaluate
from hybrid_calc.committee.graph import Batch, GraphBuilder
from hybrid_calc.committee.mace_files import read_models, untouched
from hybrid_calc.committee.neighbours import DEFAULT_SKIN
from hybrid_calc.committee.prediction import NEUTRAL_SINGLET, CommitteeInfo, Domain, Prediction
from hybrid_calc.committee.stack import convert, join
from hybrid_calc.errors import CommitteeError
from hybrid_calc.reference.level import LevelOfTheory

DTYPES = {"float64": torch.float64, "float32": torch.float32}
MAX_ATOMS_AT_ONCE = 4000
"""Atoms per pass of `MaceCommittee.predict_many`; bounds its memory."""

PROBE_TOLERANCE = 1e-8
"""Largest relative difference between the stack and MACE at load, in float64."""


class MaceCommittee:
    """M networks of one architecture that answer together.

    Energies, forces and stress of every member equal those of MACE's own
    calculator to rounding.  ``descriptors`` are the members' invariant node
    features of all layers, averaged over the members: (N, layers C).  Members
    have unrelated random bases, so the average keeps distances between
    environments, at a size that does not grow with M.

    Parameters
    ----------
    models
        MACE networks, at least two; they are copied.
    name
        Short name for people.
    dtype
        ``float64``, or ``float32``, which is enough for molecular dynamics.
    device
        ``cpu``, or ``cuda`` where there is one.
    level
        Level of theory of the training data, if known.
    charges, multiplicities
        What the members were trained on, None for any.  A stock MACE ignores
        both, so the default is neutral singlets only.
    head
        Which head of networks with several; the default is the only one, or
        the one named ``Default``.
    source
        Where the weights come from, in words.
    skin
        Extra radius of the neighbour lists, A.
    compile
        Evaluate through torch's compiler, frame by frame: faster for small
        systems, after seconds to minutes at the first geometry of a
        composition.  What is compiled is compared with what is not before it
        answers; a difference is an error.
    calibration
        Bytes of the calibration that its bundle carries, None where there is none.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        name: str = "MACE",
        dtype: str = "float64",
        device: str = "cpu",
        level: LevelOfTheory | None = None,
        charges: frozenset[int] | None = NEUTRAL_SINGLET["charges"],
        multiplicities: frozenset[int] | None = NEUTRAL_SINGLET["multiplicities"],
        head: str | None = None,
        source: str = "",
        skin: float = DEFAULT_SKIN,
        compile: bool = False,  # noqa: A002 - the settings' word
        calibration: bytes | None = None,
    ) -> None:
        place = _device(device)
        precision = _precision(dtype)
        with untouched():
            members = [_frozen(model) for model in models]
            architecture = _common_architecture(members)
            digests = member_digests(members)
            number = _head_number(architecture["heads"], head)
            with torch.no_grad():
                stack = join([mace_weights.read_member(model, number) for model in members])
            builder = GraphBuilder(
                numbers=architecture["elements"],
                cutoff=architecture["r_max"],
                harmonics=mace_weights.harmonics(members[0]),
                radial=mace_weights.radial(members[0]),
                pair=copy.deepcopy(getattr(members[0], "pair_repulsion_fn", None)),
                members=len(members),
                width=max(layer.network[-1].shape[-1] for layer in stack.layers),
                skin=skin,
            )
            _confirm(members, stack, builder, number)
        self._stack = convert(stack, precision, place)
        self._builder = builder.to(precision, place)
        self._compiled = CompiledStack(self._stack, self._builder) if compile else None
        self._info = CommitteeInfo(
            conservative=True,
            name=name,
            identity=hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16],
            size=len(members),
            domain=Domain(
                elements=frozenset(architecture["elements"]),
                charges=charges,
                multiplicities=multiplicities,
            ),
            cutoff=architecture["r_max"],
            level=level,
            source=source or f"{len(members)} {architecture['class']} networks",
        )
        self.architecture: dict[str, Any] = architecture
        self.file_digests: dict[str, str] = {}
        self.calibration = calibration

    @classmethod
    def from_files(
        cls, paths: str | Path | Sequence[str | Path], *, trust: bool, **settings: Any
    ) -> MaceCommittee:
        """Load ``.model`` files: a pattern such as ``model_*.model``, or a list.

        Parameters
        ----------
        paths
            Files, or a pattern with ``*``; one member each, in sorted order
            for a pattern.
        trust
            True where you vouch for the files: loading a pickle runs whatever
            code it holds.
        settings
            As for the constructor.

        Raises
        ------
        UntrustedFileError
            Not trusted; nothing was loaded.
        CommitteeError
            Files missing, unreadable, or not a committee.
        """
        models, digests = read_models(paths, trust=trust)
        known = ", ".join(f"{Path(path).name} ({d[:12]})" for path, d in digests.items())
        committee = cls(models, **({"source": known} | settings))
        committee.file_digests = digests
        return committee

    @property
    def info(self) -> CommitteeInfo:
        """Who is answering."""
        return self._info

    def predict(self, atoms: Atoms) -> Prediction:
        """Answer one geometry; see `Committee`."""
        return self.predict_many([atoms])[0]

    def predict_many(self, frames: Sequence[Atoms]) -> list[Prediction]:
        """Answer several geometries in one pass, or several passes where they are many."""
        for atoms in frames:
            refuse_outside(atoms, self._info)
        predictions: list[Prediction] = []
        batch: list[Atoms] = []
        with torch.inference_mode(False):  # forces need autograd, whatever the caller set
            for atoms in frames:
                if batch and sum(map(len, batch)) + len(atoms) > MAX_ATOMS_AT_ONCE:
                    predictions += self._answer(batch)
                    batch = []
                batch.append(atoms)
            return predictions + (self._answer(batch) if batch else [])

    def close(self) -> None:
        """Do nothing; there is nothing to release."""

    def _answer(self, frames: list[Atoms]) -> list[Prediction]:
        if self._compiled is not None:
            return [_predictions([atoms], *self._compiled.answer(atoms))[0] for atoms in frames]
        batch = self._builder.build(frames)
        return _predictions(frames, batch, evaluate(self._stack, batch.graph))


def _predictions(frames: list[Atoms], batch: Batch, answer: Answer) -> list[Prediction]:
    """Return what the members say, frame by frame."""
    energies = answer.energies.cpu().numpy()
    forces = batch.forces(answer.pair_gradients)
    stress = batch.stress(answer.pair_gradients)
    descriptors = batch.per_atom(answer.invariants.mean(0))
    predictions, first = [], 0
    for number, atoms in enumerate(frames):
        own = slice(first, first + len(atoms))
        first = own.stop
        predictions.append(
            Prediction(
                energies=energies[:, number].copy(),
                forces=forces[:, own],
                stress=stress[:, number] if stress is not None and atoms.pbc.any() else None,
                descriptors=descriptors[own],
            )
        )
    return predictions


def _confirm(members: Sequence[Any], stack: Any, builder: GraphBuilder, head: int) -> None:
    """Compare the stack with MACE itself on a probe, before anyone relies on it."""
    batch = builder.build(probe_frames(builder.numbers, builder.cutoff))
    answer = evaluate(stack, batch.graph)
    forces = batch.forces(answer.pair_gradients)
    for number, member in enumerate(members):
        energy, force = mace_weights.probe(member, batch.graph, head)
        stock = batch.per_atom(force)
        wrong = max(
            _relative(answer.energies[number].numpy(), energy.numpy()),
            _relative(forces[number], stock),
        )
        if not wrong < PROBE_TOLERANCE:
            raise CommitteeError(
                f"member {number} gives other numbers stacked than in MACE itself (relative "
                f"difference {wrong:.1e}); this version of mace-torch is not one of those the "
                "adapter was checked with. Run the members one by one with MembersCommittee."
            )


def _relative(ours: NDArray[np.float64], stock: NDArray[np.float64]) -> float:
    return float(np.abs(ours - stock).max() / max(1.0, np.abs(stock).max()))


def probe_frames(numbers: Sequence[int], cutoff: float) -> list[Atoms]:
    """Return a cluster of the elements (eight at most), spread over the cut-off."""
    random = np.random.default_rng(0)
    chosen = [numbers[int(i)] for i in np.linspace(0, len(numbers) - 1, min(8, len(numbers)))]
    chosen = (chosen * 8)[: max(6, len(chosen))]
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    positions = corners[: len(chosen)] * 0.45 * cutoff
    return [Atoms(numbers=chosen, positions=positions + random.uniform(-0.2, 0.2, positions.shape))]


def _common_architecture(members: Sequence[Any]) -> dict[str, Any]:
    """Return the members' architecture.

    Raises
    ------
    CommitteeError
        Fewer than two, of a kind that cannot be read, or not alike.
    """
    if len(members) < 2:
        raise CommitteeError(
            f"a committee needs at least two members; got {len(members)}. One network, a "
            "foundation model too, cannot disagree with itself: train or fine-tune several with "
            "different seeds."
        )
    for number, model in enumerate(members):
        mace_weights.check_supported(model, f"member {number}")
    found = [mace_weights.architecture(model) for model in members]
    differences = [
        f"{key}: " + "; ".join(f"member {n} has {one[key]}" for n, one in enumerate(found))
        for key in found[0]
        if any(one[key] != found[0][key] for one in found)
    ]
    if differences:
        raise CommitteeError(
            "members of one stack need one architecture; these differ in "
            + "\n  ".join(differences)
            + "\nRun them as separate members with MembersCommittee, or train them alike."
        )
    return found[0]


def member_digests(members: Sequence[nn.Module]) -> list[str]:
    """Return a hash of each member's weights, whatever precision they are stored in.

    Raises
    ------
    CommitteeError
        Two members are the same network.
    """
    digests: list[str] = []
    for number, model in enumerate(members):
        digest = hashlib.sha256()
        for key, tensor in sorted(mace_weights.identifying_tensors(model).items()):
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(np.ascontiguousarray(tensor.detach().double().cpu().numpy()).tobytes())
        if digest.hexdigest() in digests:
            raise CommitteeError(
                f"members {digests.index(digest.hexdigest())} and {number} have identical weights; "
                "their spread would be zero everywhere. Give members trained with different seeds."
            )
        digests.append(digest.hexdigest())
    return digests


def _head_number(heads: Sequence[str], head: str | None) -> int:
    wanted = head if head is not None else "default"
    matches = [n for n, known in enumerate(heads) if known.lower() == wanted.lower()]
    if not matches and head is None and len(heads) == 1:
        return 0
    if len(matches) != 1:
        raise CommitteeError(
            f"the networks have heads {', '.join(heads)}; say which with head=..., got {head!r}."
        )
    return matches[0]


def _frozen(model: nn.Module) -> nn.Module:
    """Return a float64 copy; through pickle, because MACE's zero paths cannot be deep-copied."""
    copied: nn.Module = pickle.loads(pickle.dumps(model))  # noqa: S301 - made here, just now
    return copied.cpu().double().requires_grad_(False).eval()


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CommitteeError("device 'cuda' was asked for and there is none; set device: cpu.")
    return device


def _precision(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise CommitteeError(f"dtype {name!r} is not known; choose float64 or float32.")
    return DTYPES[name]
