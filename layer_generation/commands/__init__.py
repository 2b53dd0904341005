"""The commands of `fusi layer`: each parses, calls, reports; nothing else."""
