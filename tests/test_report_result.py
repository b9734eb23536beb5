"""How a band's result is read: pathways, shelves, what was given up."""

import io

from rich.console import Console

from hybrid_calc.report.result import print_result

STEP = {
    "joins": ["reactant", "intermediate 1"],
    "confirmed": True,
    "barrierless": False,
    "barrier_ev": 3.361,
    "transition_fmax_ev_per_ang": 0.05,
    "labels": 40,
}
SHELF = STEP | {
    "joins": ["intermediate 1", "product"],
    "barrierless": True,
    "barrier_ev": 0.0,
    "transition_fmax_ev_per_ang": None,
}
HIGHER = {"barrier_ev": 4.007, "steps": 3, "confirmed": True, "missing": ""}
LOWEST = {"barrier_ev": 3.361, "steps": 2, "confirmed": True, "missing": ""}
GIVEN_UP = {"barrier_ev": None, "steps": 1, "confirmed": False, "missing": "120 labels"}


def printed(steps, pathways):
    console = Console(file=io.StringIO(), width=120)
    summary = {
        "driver": "surface",
        "task": "neb",
        "files": {},
        "confirmed": True,
        "barrier_ev": 3.361,
        "barrier_interval_95_ev": [3.35, 3.37],
        "reverse_barrier_ev": 3.147,
        "reverse_barrier_interval_95_ev": [3.137, 3.157],
        "reaction_energy_ev": 0.214,
        "transition_fmax_ev_per_ang": 0.05,
        "curvatures_ev_per_ang2": [],
        "labels_by_purpose": {"between": 80},
        "elementary_steps": steps,
        "pathways": pathways,
        "prior": "none",
        "known_labels": 0,
        "forecasts": {"predicted_before_label": 0, "within_interval_95": 0},
    }
    print_result(console, summary)
    return console.file.getvalue()


def test_a_step_without_a_barrier_is_named_so():
    text = printed([STEP, SHELF], [LOWEST])
    assert "3.361 eV, 0.050 eV/A, 40 labels" in text
    assert "no barrier above the higher of the two, 40 labels" in text
    assert "pathway sought" not in text  # there was one only


def test_every_pathway_is_shown_with_what_became_of_it():
    text = printed([STEP, SHELF], [HIGHER, GIVEN_UP, LOWEST])
    assert text.count("pathway sought") == 3
    assert "4.007 eV, steps: 3, confirmed" in text
    assert "not known, steps: 1, given up: 120 labels" in text


def test_a_mode_too_soft_for_forces_to_tell_a_minimum_is_spoken_of():
    def row(softest):
        console = Console(file=io.StringIO(), width=120)
        summary = {
            "driver": "surface", "task": "relax", "files": {}, "confirmed": True,
            "energy_ev": -1.0, "fmax_ev_per_ang": 0.001, "prior": "committee", "known_labels": 0,
            "forecasts": {"predicted_before_label": 0, "within_interval_95": 0},
            "softest_invcm": softest,
        }  # fmt: skip
        print_result(console, summary)
        return console.file.getvalue()

    assert "38 1/cm: too soft" in row(38.2)
    assert "-48 1/cm: too soft" in row(-47.6)
    assert "too soft" not in row(271.0)
    assert "too soft" not in row(None)  # a single atom
