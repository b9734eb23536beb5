"""What all settings classes share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

DEVICES = r"^(cpu|cuda(:\d+)?)$"
"""What torch calls a device that is known here."""


class Settings(BaseModel):
    """A part of a settings file: no unknown key, no infinity, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
