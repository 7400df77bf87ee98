"""Several objectives with several seeds, compared."""
