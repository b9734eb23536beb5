"""A band of images on one frozen surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.mep.neb import idpp_interpolate, interpolate
from ase.optimize import BFGS
from numpy.typing import NDArray

from hybrid_calc.correction.surface import Surface, evaluate_surface, surface_std
from hybrid_calc.drivers.shape import has_clash, turn_onto

CHECK = 2
"""Optimiser steps between looks at the posterior std."""

SHAKE_ANG = 0.1
"""How far they are shaken, A."""

SPRING_EV_PER_ANG2 = 1.0
"""Spring constant between images, eV/A^2."""

BAND_FMAX_EV_PER_ANG = 0.1
"""Target for the band's own forces on the surface, eV/A."""

ROUGH_FMAX_EV_PER_ANG = 0.5
"""Below this band force the highest image starts to climb, eV/A."""

BAND_STEPS = 300
"""Optimiser steps for plain and climbing band together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Images on one surface, B of them with both ends.

    Attributes
    ----------
    positions
        Shape (B, N, 3), A.
    energies
        On the surface, eV, shape (B,).
    converged
        Whether the band's own forces are under their target.
    unsure
        Image where it stopped because the std was too high, or None.
    """

    positions: NDArray[np.float64]
    energies: NDArray[np.float64]
    converged: bool
    unsure: int | None

    @property
    def top(self) -> int:
        """Highest image; an end means that there is no barrier inside."""
        return int(np.argmax(self.energies))


class SurfaceNEB(NEB):
    """ASE's NEB with all images evaluated in one pass over the surface.

    Parameters
    ----------
    images
        With their constraints.
    surface
        Frozen for the life of the band.
    spring
        Spring constant, eV/A^2.
    """

    def __init__(self, images: list[Atoms], surface: Surface, spring: float) -> None:
        super().__init__(images, k=spring, climb=False, method="improvedtangent")
        self.surface = surface
        self._evaluated: NDArray[np.float64] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Put the surface's answers on every image."""
        if not self.images[0].constraints:
            # Else images drift apart by turning the whole molecule, which costs nothing.
            for one, two in zip(self.images, self.images[1:], strict=False):
                minimize_rotation_and_translation(one, two)
        positions = np.array([image.positions for image in self.images])
        if self._evaluated is not None and np.array_equal(positions, self._evaluated):
            return
        energies, forces = evaluate_surface(self.surface, positions)
        for image, energy, force in zip(self.images, energies, forces, strict=True):
            image.calc = SinglePointCalculator(image, energy=float(energy), forces=force)
        self._evaluated = positions

    def get_forces(self) -> NDArray[np.float64]:
        """Return the band's forces; see ASE's NEB."""
        self.refresh()
        return np.asarray(super().get_forces())


def idpp_band(reactant: Atoms, product: Atoms, count: int) -> NDArray[np.float64]:
    """Interpolate with image-dependent pair potentials; shape (count, N, 3), A.

    The product is turned onto the reactant first unless something is constrained.
    """
    end = product.copy()
    if not reactant.constraints:
        minimize_rotation_and_translation(reactant, end)
    images = [reactant.copy() for _ in range(count - 1)] + [end]
    interpolate(images)
    _part_clashes(images)
    band = NEB(images, method="improvedtangent")
    idpp_interpolate(band, traj=None, log=None, fmax=0.1, steps=200)
    return np.array([image.positions for image in images])


def _part_clashes(images: list[Atoms]) -> None:
    """Shake interpolated images where atoms pass through each other.

    On a line of atoms nothing else would move them aside.
    """
    rng = np.random.default_rng(0)
    for image in images[1:-1]:
        if has_clash(image.numbers, image.positions):
            image.set_positions(image.positions + rng.normal(0.0, SHAKE_ANG, (len(image), 3)))


def band_through(stops: Sequence[Atoms], count: int) -> NDArray[np.float64]:
    """Interpolate a band of count images through all stops; shape (count, N, 3), A.

    Of more stops than images an even choice is passed through.
    """
    chosen = np.linspace(0, len(stops) - 1, min(count, len(stops))).round().astype(int)
    stops = [stops[index] for index in chosen]
    marks = np.linspace(0, count - 1, len(stops)).round().astype(int)
    here, parts = stops[0].copy(), [stops[0].positions[None]]
    for stop, images in zip(stops[1:], np.diff(marks), strict=True):
        if images == 1:  # nothing between to interpolate
            free = not here.constraints
            leg = stop.positions[None]
            leg = turn_onto(stop.positions, here.positions).positions[None] if free else leg
        else:
            leg = idpp_band(here, stop, int(images) + 1)[1:]
        parts.append(leg)
        here.set_positions(leg[-1], apply_constraint=False)
    return np.concatenate(parts)


def relax_band(
    template: Atoms,
    surface: Surface,
    positions: NDArray[np.float64],
    *,
    max_step: float = 0.1,
    max_std: float = np.inf,
) -> Band:
    """Relax a band, first plain, then climbing; stop where the std passes its limit.

    Parameters
    ----------
    template
        The molecule with its constraints.
    surface
        Frozen.
    positions
        Where to start, shape (B, N, 3), A.
    max_step
        Largest step, A.
    max_std
        Largest posterior std (not calibrated) of an image, eV.
    """
    images = []
    for one in positions:
        image = template.copy()
        image.set_positions(one, apply_constraint=False)
        images.append(image)
    band = SurfaceNEB(images, surface, SPRING_EV_PER_ANG2)
    left, converged, unsure = BAND_STEPS, False, None
    for climb in (False, True):
        band.climb = climb
        target = BAND_FMAX_EV_PER_ANG if climb else ROUGH_FMAX_EV_PER_ANG
        # ASE's optimisers take bands too; its annotation says Atoms only.
        optimiser = BFGS(band, logfile=None, maxstep=max_step)  # type: ignore[arg-type]
        for reached in optimiser.irun(fmax=target, steps=left):
            converged = bool(reached)
            unsure = _unsure_image(band, max_std) if optimiser.nsteps % CHECK == CHECK - 1 else None
            if unsure is not None:
                break
        left -= optimiser.nsteps
        if unsure is not None or left <= 0:
            break
    if unsure is None:
        unsure = _unsure_image(band, max_std)  # also where nothing had to be moved
    band.refresh()
    final = np.array([image.positions for image in images])
    return Band(
        positions=final,
        energies=np.array([image.get_potential_energy() for image in images]),
        converged=converged and unsure is None and band.climb,
        unsure=unsure,
    )


def _unsure_image(band: SurfaceNEB, max_std: float) -> int | None:
    if not np.isfinite(max_std):
        return None
    positions = np.array([image.positions for image in band.images])
    std = surface_std(band.surface, positions, positions[0])
    worst = int(np.argmax(std))
    return worst if std[worst] > max_std else None
