"""Makes this folder importable for tests in the folders below: `from golden_cases import cases`."""
