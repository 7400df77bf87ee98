"""W&B sweep files without a server: checked, sampled, run in processes, resumed, reported."""
