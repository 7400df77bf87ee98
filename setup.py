"""Put the top-level conf/ and recipes/ inside the package, for wheels and for editable installs alike."""

from pathlib import Path

from setuptools import find_packages, setup

CONFIGURATION = Path(__file__).parent / "conf"

setup(
    packages=[
        *find_packages(include=["lightning_losses*"]),
        # Without __init__.py, since it holds no modules; a folder of data is a package to setuptools.
        "lightning_losses.catalogue.templates",
        "lightning_losses.conf",
        *sorted(
            f"lightning_losses.conf.{group.name}" for group in CONFIGURATION.iterdir() if any(group.glob("*.yaml"))
        ),
        "lightning_losses.recipes",
        # A namespace that several distributions share, without __init__.py; named by itself, so that an editable
        # install gives its folder, which Hydra walks through.
        "hydra_plugins",
        "hydra_plugins.lightning_losses_searchpath",
    ],
    package_dir={"lightning_losses.conf": "conf", "lightning_losses.recipes": "recipes"},
    package_data={
        "": ["*.yaml"],
        "lightning_losses": ["py.typed"],
        "lightning_losses.catalogue.templates": ["*"],
        "lightning_losses.kernels": ["*/*.cpp", "compiled/*.hpp"],
    },
)
