"""How a MACE network is built, as data: described, compared, and built again.

Only from an allow-list of MACE's classes, so that data from anywhere runs no
other code.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_calc.errors import BundleError, CommitteeError

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = ("ScaleShiftMACE",)
INTERACTIONS = (
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
)
READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock")
GATES = ("silu", "tanh", "sigmoid", "relu")
IRREPS = ("hidden_irreps", "edge_irreps", "MLP_irreps")
ARRAYS = ("atomic_energies", "atomic_inter_scale", "atomic_inter_shift", "atomic_numbers")
PLAIN = (
    "r_max", "num_bessel", "num_polynomial_cutoff", "max_ell", "num_interactions", "num_elements",
    "use_reduced_cg", "use_so3", "use_edge_irreps_first", "use_agnostic_product",
    "use_last_readout_only", "use_embedding_readout", "avg_num_neighbors", "correlation",
    "radial_type", "apply_cutoff", "radial_MLP", "pair_repulsion", "distance_transform", "heads",
)  # fmt: skip


def describe(model: nn.Module) -> dict[str, Any]:
    """Return how a network is built, JSON-able.

    Raises
    ------
    CommitteeError
        It has something that is not on the allow-list.
    """
    from mace.tools.scripts_utils import extract_config_mace_model

    kind = type(model).__name__
    if kind not in CLASSES:
        raise CommitteeError(
            f"a {kind} cannot be written as a bundle; known are {', '.join(CLASSES)}."
        )
    config = extract_config_mace_model(model)
    data: dict[str, Any] = {key: config[key] for key in PLAIN}
    data |= {key: None if config[key] is None else str(config[key]) for key in IRREPS}
    data |= {key: _numbers(config[key]) for key in ARRAYS}
    data["gate"] = None if config["gate"] is None else config["gate"].__name__
    for key in ("interaction_cls", "interaction_cls_first", "readout_cls"):
        data[key] = config[key].__name__
    if config["cueq_config"] is not None or config["embedding_specs"]:
        raise CommitteeError("accelerated or embedded networks cannot be written as a bundle.")
    data["class"] = kind
    _check_allowed(data, CommitteeError)
    return data


def _numbers(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _check_allowed(data: Mapping[str, Any], error: type[Exception]) -> None:
    """Refuse names that are not on the allow-lists."""
    for key, allowed in (
        ("class", CLASSES),
        ("interaction_cls", INTERACTIONS),
        ("interaction_cls_first", INTERACTIONS),
        ("readout_cls", READOUTS),
        ("gate", (None, *GATES)),
    ):
        if data.get(key) not in allowed:
            raise error(f"{key} {data.get(key)!r} is not one of {', '.join(map(str, allowed))}.")


def common_part(
    architectures: Sequence[dict[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what all members share, and per member what differs.

    Raises
    ------
    CommitteeError
        They differ in more than numbers that every member has of its own.
    """
    own = (*ARRAYS, "avg_num_neighbors")
    common = {key: value for key, value in architectures[0].items() if key not in own}
    for number, found in enumerate(architectures):
        odd = [key for key, value in common.items() if found[key] != value]
        if odd:
            raise CommitteeError(
                f"member {number} differs from member 0 in {', '.join(odd)}; a bundle holds "
                "networks of one architecture."
            )
    return common, [{key: found[key] for key in own} for found in architectures]


def build(
    data: Mapping[str, Any], tensors: Mapping[str, Tensor], member: int, path: Path
) -> nn.Module:
    """Build one network from the allow-list and give it its weights.

    Parameters
    ----------
    data
        That `describe` returned.
    tensors
        Weights of all members by name, stacked, each of shape (M, ...).
    member
        Which of them it is.
    path
        Where they come from, for errors.

    Raises
    ------
    BundleError
        A name that is not on the allow-list, or weights that do not fit.
    """
    import torch
    from e3nn import o3
    from mace import modules

    _check_allowed(data, BundleError)
    arguments = {key: data[key] for key in PLAIN}
    arguments |= {key: None if data[key] is None else o3.Irreps(data[key]) for key in IRREPS}
    arguments |= {key: _array(data[key]) for key in ARRAYS}
    arguments["gate"] = None if data["gate"] is None else getattr(torch.nn.functional, data["gate"])
    for key in ("interaction_cls", "interaction_cls_first", "readout_cls"):
        arguments[key] = getattr(modules.blocks, data[key])
    state = {key: value[member] for key, value in tensors.items()}
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(next(t.dtype for t in state.values() if t.is_floating_point()))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about the TorchScript in e3nn
            model: nn.Module = getattr(modules, data["class"])(**arguments)
    finally:
        torch.set_default_dtype(before)
    missing, unexpected = model.load_state_dict(state, strict=False)
    lost = [key for key in missing if key in dict(model.named_parameters())]
    lost += list(unexpected)
    if any(dict(model.named_parameters()).get(key, torch.ones(1)).numel() for key in lost):
        raise BundleError(
            f"{path}: weights do not fit the architecture ({', '.join(lost[:3])}, ...); "
            "this version of mace-torch builds it differently from the one it was written with."
        )
    return model


def _array(value: Any) -> Any:
    import numpy as np

    return np.array(value)
