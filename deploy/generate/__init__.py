"""Makes the files that follow from code: ``make generated``."""
