"""Committee or reference: regime, reasons, trust, budget, audits."""
