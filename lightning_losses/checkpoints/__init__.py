"""How a run stops and goes on."""
