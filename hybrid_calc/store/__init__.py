"""Validated frames that are never lost."""
