"""The calibration wizard: one page a file, none of them knows torch."""
