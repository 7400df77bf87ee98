"""Put the top-level conf/ and recipes/ inside the package, for wheels and for editable installs alike."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lightning_losses*"]), "lightning_losses.conf", "lightning_losses.recipes"],
    package_dir={"lightning_losses.conf": "conf", "lightning_losses.recipes": "recipes"},
    package_data={"lightning_losses": ["py.typed"], "lightning_losses.conf": ["*.yaml", "*/*.yaml"]},
)
