"""Generated messages and services of ``galerne.v1``; written by ``make proto``."""
