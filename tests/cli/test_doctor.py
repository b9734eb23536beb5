"""``hybrid-calc doctor``: versions, threads, and whether the default pair fits."""

from __future__ import annotations

import builtins
from importlib import metadata

import pytest

from hybrid_calc.committee.ani import AniCommittee
from hybrid_calc.errors import MissingPackageError
from hybrid_calc.reference.pyscf_backend import ANI_1X_LEVEL
from hybrid_calc.report import doctor


@pytest.fixture(scope="module")
def default_pair():
    """What is found about the default pair; loading it takes seconds."""
    return doctor._default_pair()


@pytest.fixture
def quick(monkeypatch, default_pair):
    """Look at everything, without loading the default committee again."""
    monkeypatch.setattr(doctor, "_default_pair", lambda: default_pair)


@pytest.fixture
def lacking(monkeypatch):
    """Let a package be missing."""
    version = doctor._version

    def arrange(name):
        monkeypatch.setattr(
            doctor, "_version", lambda package: "" if package == name else version(package)
        )

    return arrange


def by_name(findings):
    return {finding.what: finding for finding in findings}


@pytest.mark.usefixtures("quick")
def test_a_complete_installation_is_healthy(jobs):
    ended = jobs.call("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert "look here" not in ended.out
    out = " ".join(ended.out.split())
    for words in ("OMP_NUM_THREADS", "torch threads", "processor cores", "they match"):
        assert words in out
    for package in doctor.NEEDED:
        assert f"{package} │ {metadata.version(package)}" in out


def test_the_default_pair_is_named_with_weights_and_level(default_pair):
    findings = by_name(default_pair)
    info = AniCommittee().info
    assert findings["default committee"].value == "ANI-1x, 8 members"
    assert info.identity in findings["its weights"].value
    assert ANI_1X_LEVEL.hash in findings["default level"].value
    assert findings["they match"].value == "yes"


@pytest.mark.usefixtures("quick")
def test_a_missing_package_is_pointed_at_and_the_exit_code_is_1(jobs, lacking):
    lacking("pyscf")
    ended = jobs.call("doctor")
    assert ended.code == 1
    line = next(line for line in ended.out.splitlines() if "pyscf " in line)
    assert "missing" in line
    assert "look here" in line


@pytest.mark.usefixtures("quick")
def test_an_optional_package_may_be_missing(lacking):
    lacking("tblite")
    finding = by_name(doctor.examine())["tblite"]
    assert (finding.value, finding.good) == ("not installed (optional)", True)


def test_a_default_committee_that_does_not_load_is_said(monkeypatch):
    def fail(self, model="ani-1x"):
        raise MissingPackageError("ANI committees need torchani")

    monkeypatch.setattr(AniCommittee, "__init__", fail)
    findings = by_name(doctor._default_pair())
    assert findings["default committee"].value == "ANI committees need torchani"
    assert not findings["default committee"].good


@pytest.mark.parametrize("value", ["3", None])
def test_the_threads_asked_for_are_shown(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    findings = by_name(doctor._threads())
    assert findings["OMP_NUM_THREADS"].value == (value or "not set")


def test_without_torch_there_is_still_a_report(monkeypatch):
    original = builtins.__import__

    def without_torch(name, *arguments, **named):
        if name == "torch":
            raise ImportError(name)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    names = [finding.what for finding in doctor._threads()]
    assert names == ["processor cores", "OMP_NUM_THREADS"]
