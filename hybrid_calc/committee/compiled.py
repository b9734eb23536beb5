"""The stack's evaluation through torch's compiler, for small systems where overhead counts.

For one composition and one room of pairs and slots, the operations of
`evaluate` (forward and backward, all members) are recorded with `make_fx`, the
weights among the inputs, and handed to Inductor, which writes and compiles C++.
Frames are padded with empty pairs up to the room, so that molecular dynamics
does not compile at every step.  What comes out is compared with `evaluate`
itself on the geometry at hand and on rattled copies, without padding, before
it answers anything.

Inductor keeps what it compiled in its own cache directory, from run to run:
the environment variable TORCHINDUCTOR_CACHE_DIR, or torchinductor_USER in the
folder for temporary files.  The next run only records and compares.  Checked
with torch 2.13 on cpu.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, cast

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from hybrid_calc.committee.evaluate import Answer, Graph, evaluate
from hybrid_calc.committee.graph import Batch, GraphBuilder, Room
from hybrid_calc.committee.mace_files import untouched
from hybrid_calc.committee.stack import Stack
from hybrid_calc.errors import CommitteeError

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Largest difference of a force from that of `evaluate`, eV/A, up to `USUAL_FORCE`."""

USUAL_FORCE = 100.0
"""Force above which the difference may grow in proportion, eV/A."""

RATTLES = (0.1, 0.05, 0.03, 0.02, 0.01, 0.005)
"""Standard deviations of the positions of copies to compare, A."""

COPIES = 4
"""Rattled copies to compare; fewer where their pairs do not fit the room."""

ADVICE = "Set compile: false (compile=False): the committee answers the same without it."

Run = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class _Program:
    """A compiled evaluation: weights that are given each time, and which of the graph's tensors."""

    run: Run
    weights: list[Tensor]
    wanted: list[int]

    def __call__(self, graph: Graph) -> Answer:
        tensors = tensors_of(graph)
        variables = [tensors[number].contiguous() for number in self.wanted]
        with torch.no_grad():
            energies, pair_gradients, invariants = self.run(*self.weights, *variables)
        return Answer(energies=energies, pair_gradients=pair_gradients, invariants=invariants)


class CompiledStack:
    """Evaluates a stack through compiled programs, one per composition and room.

    A program that differs from `evaluate`, or cannot be compiled, is refused
    with an error, at once and at every later call.  Safe to share between
    threads.

    Parameters
    ----------
    stack
        The networks.
    builder
        Makes the graphs.
    """

    def __init__(self, stack: Stack, builder: GraphBuilder) -> None:
        self._stack = stack
        self._builder = builder
        self._programs: dict[tuple[bytes, Room], _Program] = {}
        self._refusal: str | None = None
        self._lock = Lock()

    @property
    def programs(self) -> int:
        """How many programs are in use."""
        return len(self._programs)

    def answer(self, atoms: Atoms) -> tuple[Batch, Answer]:
        """Evaluate one frame; the first of its kind takes seconds to minutes.

        Raises
        ------
        CommitteeError
            The frame is too large, its program cannot be compiled, or it gives
            other numbers than the stack does without compiling.
        """
        room = self._room(atoms)
        batch = self._builder.build([atoms], room=room)
        key = (_composition(atoms), room)
        program = self._programs.get(key)
        if program is None:
            with self._lock:
                program = self._programs.get(key) or self._prepare(atoms, room, batch.graph)
                if program is None:  # not finite; the caller will see it in the answer
                    return batch, evaluate(self._stack, batch.graph)
                self._programs[key] = program
        return batch, program(batch.graph)

    def _room(self, atoms: Atoms) -> Room:
        """Return the smallest room in use that is not wasteful, or a new one."""
        needed = self._builder.needs(atoms)
        kind = _composition(atoms)
        known = [room for other, room in list(self._programs) if other == kind]
        fitting = [room for room in known if needed <= room and room.pairs <= 2 * needed.pairs]
        if fitting:
            return min(fitting, key=lambda room: (room.slots, room.pairs))
        pairs, slots = _roomy(needed.pairs), _roomy(needed.slots)
        if not atoms.pbc.any():
            pairs = min(pairs, len(atoms) * (len(atoms) - 1) // 2 + 1)
            slots = min(slots, max(1, len(atoms) - 1))
        return Room(pairs=pairs, slots=slots)

    def _prepare(self, atoms: Atoms, room: Room, graph: Graph) -> _Program | None:
        """Compile and compare; None where the geometry has no finite answer to compare."""
        if self._refusal is not None:
            raise CommitteeError(self._refusal)
        expected = evaluate(self._stack, graph)  # also computes what the stack keeps per element
        if not math.isfinite(expected.pair_gradients.sum()):
            return None
        try:
            program = _program(self._stack, graph)
        except Exception as error:
            first = next(iter(str(error).splitlines()), "")
            self._refusal = (
                f"the committee cannot be compiled ({type(error).__name__}: {first}). Compiling "
                f"needs torch's Inductor and a C++ compiler such as g++. {ADVICE}"
            )
            raise CommitteeError(self._refusal) from error
        self._compare(program, atoms, room)
        return program

    def _compare(self, program: _Program, atoms: Atoms, room: Room) -> None:
        """Refuse a program that differs from the evaluation without compiling or padding."""
        for frame in [atoms, *self._copies(atoms, room)]:
            plain, padded = self._builder.build([frame]), self._builder.build([frame], room=room)
            expected, found = evaluate(self._stack, plain.graph), program(padded.graph)
            forces = plain.forces(expected.pair_gradients)
            limit = TOLERANCES[self._stack.scale.dtype]
            limit *= max(1.0, float(np.abs(forces).max()) / USUAL_FORCE)
            in_forces = _largest(forces, padded.forces(found.pair_gradients))
            invariants = plain.per_atom(expected.invariants)
            size = max(1.0, float(np.abs(invariants).max()))
            others = max(
                _largest(expected.energies.cpu().numpy(), found.energies.cpu().numpy())
                / len(atoms),
                _largest(invariants, padded.per_atom(found.invariants)) / size,
            )
            if not (in_forces <= limit and others <= limit):
                self._refusal = (
                    f"the compiled committee gives other numbers than the same networks without "
                    f"compiling: forces differ by {in_forces:.1e} eV/A, energies per atom or "
                    f"descriptors by {others:.1e}; allowed is {limit:.0e}. {ADVICE}"
                )
                raise CommitteeError(self._refusal)

    def _copies(self, atoms: Atoms, room: Room) -> list[Atoms]:
        random = np.random.default_rng(0)
        copies = []
        for scale in RATTLES:
            copy = atoms.copy()
            copy.positions += random.normal(scale=scale, size=copy.positions.shape)
            if self._builder.needs(copy) <= room:
                copies.append(copy)
        return copies[:COPIES]


def tensors_of(item: Any) -> list[Tensor]:
    """Return the tensors in nested dataclasses, tuples and dictionaries, in order."""
    if isinstance(item, Tensor):
        return [item]
    return [tensor for part in _parts(item) for tensor in tensors_of(part)]


def _parts(item: Any) -> list[Any]:
    if isinstance(item, tuple):
        return list(item)
    if isinstance(item, dict):
        return list(item.values())
    if dataclasses.is_dataclass(item):
        return [getattr(item, part.name) for part in dataclasses.fields(item)]
    return []


def _refilled(item: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a copy of the item with other tensors, in the order of `tensors_of`."""
    if isinstance(item, Tensor):
        return next(tensors)
    if isinstance(item, tuple):
        return tuple(_refilled(part, tensors) for part in item)
    if isinstance(item, dict):
        return {key: _refilled(part, tensors) for key, part in item.items()}
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        copy = object.__new__(type(item))
        for part in dataclasses.fields(item):  # also those a constructor does not take
            object.__setattr__(copy, part.name, _refilled(getattr(item, part.name), tensors))
        return copy
    return item


def _program(stack: Stack, graph: Graph) -> _Program:
    """Record the evaluation and compile it."""
    from torch.fx.experimental.proxy_tensor import make_fx

    weights, variables = tensors_of(stack), tensors_of(graph)
    inputs = [tensor.contiguous() for tensor in (*weights, *variables)]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        answer = evaluate(*_refilled((stack, graph), iter(tensors)))
        return answer.energies, answer.pair_gradients, answer.invariants

    with _undisturbed():
        module = make_fx(run)(*inputs)
        places = [node for node in module.graph.nodes if node.op == "placeholder"]
        wanted = [number for number, node in enumerate(places) if node.users]
        for node in places:
            if not node.users:
                module.graph.erase_node(node)
        module.recompile()
        compiled = compile_module(module, [inputs[number] for number in wanted])
    own = [inputs[number] for number in wanted if number < len(weights)]
    rest = [number - len(weights) for number in wanted if number >= len(weights)]
    return _Program(compiled, own, rest)


def compile_module(module: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Run:
    """Compile recorded operations with Inductor, for inputs of exactly these shapes.

    Inductor reads and writes its cache only in a tracing context with a shape
    environment, which `torch.compile` would set up; its front end would be
    slower for recorded operations.  One process compiles, no workers are left.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv())
    shapes = [mode.from_tensor(tensor, static_shapes=True) for tensor in inputs]
    options = {"compile_threads": 1, "fx_graph_cache": True, "size_asserts": True}
    with torch.no_grad(), config.patch(options), tracing(TracingContext(mode)):
        run = compile_fx(module, shapes)
    return cast(Run, run)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restore what compiling changes for the whole process, and keep its remarks quiet."""
    environment, random = dict(os.environ), torch.get_rng_state()
    try:
        with untouched(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_rng_state(random)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _composition(atoms: Atoms) -> bytes:
    kind: bytes = np.sort(atoms.numbers).tobytes() + atoms.pbc.tobytes()
    return kind


def _roomy(count: int) -> int:
    """Return the next of 4, 6, 8, 12, 16, 24, ... that leaves a tenth free."""
    needed = math.ceil(1.1 * count)
    power = 1 << max(2, (needed - 1).bit_length())
    return power * 3 // 4 if needed <= power * 3 // 4 and power > 4 else power


def _largest(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    return float(np.abs(expected - found).max())
