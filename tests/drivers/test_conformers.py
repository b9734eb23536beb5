"""Ends with the same bonds: which of the two a way downhill leads to."""

import numpy as np
import pytest
from ase import Atoms
from scipy.interpolate import CubicHermiteSpline

from hybrid_calc.drivers.barrier import SearchLimits
from hybrid_calc.drivers.confirm import SaddleCheck
from hybrid_calc.drivers.downhill import side_of
from hybrid_calc.drivers.labelling import LabelBook
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.progress import Progress
from hybrid_calc.drivers.saddle import Descent
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import bonds_of
from tests.drivers.conftest import Reference, committee_of, distance, height_of

QUICK = NebSettings(images=7)
STRETCHED = np.sqrt(1.5**2 + 1.5**2 - 2 * 1.5 * 1.5 * np.cos(np.radians(112)))


def twisted(degrees):
    """Four atoms in a chain, bonds 1.5 A, angles 112 degrees."""
    bend, turn = np.radians(180 - 112), np.radians(degrees)
    first = 1.5 * np.array([-np.cos(bend), np.sin(bend), 0.0])
    last = 1.5 * np.array([np.cos(bend), np.sin(bend) * np.cos(turn), np.sin(bend) * np.sin(turn)])
    return np.array([first, np.zeros(3), [1.5, 0, 0], np.array([1.5, 0, 0]) + last])


def torsion(positions):
    """Dihedral angle of atoms 0, 1, 2 and 3, radians."""
    first = positions[..., 0, :] - positions[..., 1, :]
    axis = positions[..., 2, :] - positions[..., 1, :]
    axis = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    last = positions[..., 3, :] - positions[..., 2, :]
    one, two = (v - (v * axis).sum(-1, keepdims=True) * axis for v in (first, last))
    return np.arctan2((np.cross(axis, one) * two).sum(-1), (one * two).sum(-1))


def rotor(positions):
    """Minima at 60, 180 and 300 degrees, 0.4 eV barriers between them."""
    bonds = sum((distance(positions, k, k + 1) - 1.5) ** 2 for k in range(3))
    angles = sum((distance(positions, k, k + 2) - STRETCHED) ** 2 for k in range(2))
    return 10 * bonds + 6 * angles + 0.2 * (1 + np.cos(3 * torsion(positions)))


def soft_rotor(positions):
    return 0.9 * rotor(positions)


def pyramid(positions):
    """An atom over three others: two minima, mirror images, and 0.25 eV between them."""
    legs = sum((distance(positions, 0, k) - 1.0) ** 2 for k in (1, 2, 3))
    sides = sum((distance(positions, i, j) - 1.65) ** 2 for i, j in ((1, 2), (2, 3), (1, 3)))
    turned = positions[..., [1, 2, 3, 0], :]
    return 12 * legs + 3 * sides + 0.25 * ((height_of(turned) / 0.35) ** 2 - 1) ** 2


def soft_pyramid(positions):
    return 0.9 * pyramid(positions)


def chain(degrees):
    return Atoms("CCCC", positions=twisted(degrees))


def labelled(*places):
    book = LabelBook(chain(60), committee_of(soft_rotor), Reference(rotor))
    return book, tuple(book.ask(twisted(place), "end") for place in places)


def test_the_toy_turns_as_said():
    for degrees in (40.0, 60.0, 120.0, -75.0):
        assert np.degrees(torsion(twisted(degrees))) == pytest.approx(degrees)
    assert rotor(twisted(60)) == pytest.approx(0.0, abs=1e-9)
    assert rotor(twisted(120)) == pytest.approx(0.4, abs=1e-9)


@pytest.mark.parametrize(
    ("degrees", "side"), [(66, "start"), (-66, "end"), (180, "neither"), (52, "start")]
)
def test_a_conformer_belongs_to_the_end_it_lies_on(degrees, side):
    _, ends = labelled(60, -60)  # mirror images: all their distances are equal
    here = twisted(degrees)
    assert bonds_of(chain(60).numbers, here) == bonds_of(chain(60).numbers, ends[0].positions)
    assert side_of(chain(60).numbers, here, ends) == side
    turned = here @ np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]) + 3.0
    assert side_of(chain(60).numbers, turned, ends) == side


def test_ends_near_each_other_are_told_apart_from_nearer():
    _, ends = labelled(60, 80)  # 0.5 A apart
    sides = [side_of(chain(60).numbers, twisted(degrees), ends) for degrees in (62, 70, 78)]
    assert sides == ["start", "neither", "end"]


@pytest.mark.parametrize(
    ("places", "order"),
    [((63, -63), [63, -63]), ((-63, 63), [63, -63]), ((63, 57), None), ((63, 178), None)],
)
def test_ways_between_conformers_are_put_in_order_or_doubted(places, order):
    book, ends = labelled(60, -60)
    progress = Progress()
    check = SaddleCheck(book, progress, QUICK, SearchLimits(), ends=ends, ask=lambda *_: ends[0])
    ways = [Descent(walked=twisted(place)[None], unsure=False) for place in places]
    found = check._in_order(ways)
    if order is None:
        assert found is None
        assert "the saddle joins its start and" in progress.doubt
    else:
        assert [round(np.degrees(torsion(one.positions))) for one in found] == order


def test_a_rotation_of_one_step_is_confirmed():
    reference = Reference(rotor)
    result = HybridNEB(chain(64), chain(176), committee_of(soft_rotor), reference, QUICK).run()
    assert result.confirmed, result.missing
    assert result.barrier == pytest.approx(0.4, abs=2e-3)
    assert abs(np.degrees(torsion(result.transition_state))) == pytest.approx(120, abs=3)


@pytest.mark.parametrize("barrier", [0.03, 0.05, 0.1])
@pytest.mark.parametrize("on_reference", [False, True])
def test_a_soft_rotor_is_followed_to_its_minima(barrier, on_reference, monkeypatch):
    """Right beside such a saddle its forces are as small as at a minimum."""

    def turning(positions, share=1.0):
        twist = 0.5 * barrier * (1 + np.cos(3 * torsion(positions)))
        return rotor(positions) - 0.2 * (1 + np.cos(3 * torsion(positions))) + share * twist

    def near(positions):
        return turning(positions, 0.9)

    if on_reference:
        monkeypatch.setattr("hybrid_calc.drivers.search.BarrierSearch.hard", True)
    exact = QUICK.model_copy(update={"fmax_ev_per_ang": 0.01, "end_fmax_ev_per_ang": 0.005})
    result = HybridNEB(chain(64), chain(176), committee_of(near), Reference(turning), exact).run()
    assert result.confirmed, result.missing
    assert result.barrier == pytest.approx(barrier, abs=2e-3)
    assert abs(np.degrees(torsion(result.transition_state))) == pytest.approx(120, abs=5)
    assert on_reference == (result.confirmation_labels > 10)


def along_torsion(*knots):
    """A rotor whose energy, eV, has zero slope at these (degrees, energy)."""
    degrees, energies = zip(*knots, strict=True)
    curve = CubicHermiteSpline(np.radians(degrees), energies, np.zeros(len(knots)))

    def truth(positions):
        stiff = rotor(positions) - 0.2 * (1 + np.cos(3 * torsion(positions)))
        return stiff + curve(np.mod(torsion(positions), 2 * np.pi))

    return truth


@pytest.mark.parametrize(("saddle", "barrier", "end"), [(72, 0.05, 118), (70, 0.03, 118)])
def test_a_saddle_near_one_end_is_followed_away_from_it(saddle, barrier, end, monkeypatch):
    """On the way from it the start is still near, and already far below."""
    monkeypatch.setattr("hybrid_calc.drivers.search.BarrierSearch.hard", True)
    truth = along_torsion(
        (0, 0.8), (64, 0.0), (saddle, barrier), (end, -0.5), (240, 0.8), (360, 0.8)
    )

    def large(positions):
        return truth(positions / 3)

    def near(positions):
        return 0.9 * large(positions)

    def atoms(degrees):
        return Atoms("He4", positions=3 * twisted(degrees))

    result = HybridNEB(
        atoms(64),
        atoms(end),
        committee_of(near),
        Reference(large),
        QUICK,
        path=[atoms(saddle)],
    ).run()
    assert result.confirmed, result.missing
    assert result.barrier == pytest.approx(barrier, abs=2e-3)


def test_a_third_conformer_near_an_end_is_not_taken_for_it(monkeypatch):
    """At 160 degrees, 0.18 A from the end at 190, with 0.25 eV between them."""
    monkeypatch.setattr("hybrid_calc.drivers.search.BarrierSearch.hard", True)
    knots = (0, 0.8), (64, 0.0), (112, 0.10), (160, 0.015), (175, 0.25), (190, 0.0), (275, 0.8)
    truth = along_torsion(*knots)
    result = HybridNEB(
        chain(64),
        chain(190),
        committee_of(lambda positions: 0.9 * truth(positions)),
        Reference(truth),
        QUICK,
        path=[chain(112)],
    ).run()
    assert not result.confirmed
    assert "leads elsewhere" in result.missing


def test_a_rotation_over_a_third_conformer_is_no_step_of_its_own():
    reference = Reference(rotor)
    guess = [chain(degrees) for degrees in (120, 180, 240)]
    result = HybridNEB(
        chain(64), chain(-64), committee_of(soft_rotor), reference, QUICK, path=guess
    ).run()
    assert not result.confirmed
    assert "leads elsewhere" in result.missing


def test_an_inversion_is_confirmed_although_all_distances_are_equal_at_its_ends():
    flat = np.array([[0, 0, 0], [0.94, 0, 0], [-0.47, 0.814, 0], [-0.47, -0.814, 0]])
    lifted = np.array([[0, 0, 0.36], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    ends = [Atoms("NH3", positions=flat + sign * lifted) for sign in (1, -1)]
    result = HybridNEB(*ends, committee_of(soft_pyramid), Reference(pyramid), QUICK).run()
    assert result.confirmed, result.missing
    inside = np.abs(height_of(result.transition_state[[1, 2, 3, 0]]))
    assert inside == pytest.approx(0.0, abs=0.02)
    assert result.reaction_energy == pytest.approx(0.0, abs=2e-3)
