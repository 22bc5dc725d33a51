"""The contract between Galerne's processes: messages, frames, values, errors and ports."""
