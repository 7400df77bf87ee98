"""Runs W&B sweep files without a server: checks, samples, runs in processes, resumes, reports."""
