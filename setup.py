"""Put the top-level conf/ and recipes/ inside the package, for wheels and for editable installs alike."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["lightning_losses*"]),
        "lightning_losses.conf",
        "lightning_losses.recipes",
        # A namespace that several distributions share, without __init__.py; named by itself, so that an editable
        # install gives its folder, which Hydra walks through.
        "hydra_plugins",
        "hydra_plugins.lightning_losses_searchpath",
    ],
    package_dir={"lightning_losses.conf": "conf", "lightning_losses.recipes": "recipes"},
    package_data={"lightning_losses": ["py.typed"], "lightning_losses.conf": ["*.yaml", "*/*.yaml"]},
)
