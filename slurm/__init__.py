"""Submission to SLURM and what watches over it there."""
