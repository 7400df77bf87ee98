"""What the machine offers: optional packages, and a folder for what is kept."""
