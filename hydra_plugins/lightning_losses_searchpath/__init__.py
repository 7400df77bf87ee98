"""Offers the library's configuration groups to every Hydra application; Hydra finds this file by its namespace.

`defaults: [objective: nkd, callbacks: grokking]` in an application takes ours, unless it has files of these names.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

# What stands on its own; the other groups and the primary configurations belong to the library's own recipes.
GROUPS = ("balancing", "calibrator", "callbacks", "data", "model", "objective", "optimizer", "teacher")
OWN_RECIPES = "pkg://lightning_losses.conf"


class LightningLossesSearchPath(SearchPathPlugin):
    """Appends the library's configuration to the search path: an application's own files come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append, unless the application is one of the library's own recipes."""
        if all(element.path != OWN_RECIPES for element in search_path.get_path()):
            search_path.append("lightning-losses", "lightning-losses://conf")


class LightningLossesConfigSource(ConfigSource):
    """The library's configuration files, with the types of what they build.

    A value of the wrong type and a key that the target doesn't take fail when the configuration is composed.
    """

    @staticmethod
    def scheme() -> str:
        """What the search path calls this source."""
        return "lightning-losses"

    def available(self) -> bool:
        """Whether there is such a folder."""
        return self._at("").is_dir()

    def is_group(self, config_path: str) -> bool:
        """Whether a group is offered under this name."""
        return config_path in ("", *GROUPS) and self._at(config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        """Whether one of the groups has this file."""
        group, _, name = self._normalize_file_name(config_path).rpartition("/")
        return group in GROUPS and self._at(group).joinpath(name).is_file()

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file and give its nodes types."""
        name = self._normalize_file_name(config_path)
        if not self.is_config(name):
            raise ConfigLoadError(f"Config not found : {name}")
        # Here, so that Hydra's start does not wait for torch.
        from lightning_losses.experiments.config.structured_configs import structured

        text = self._at(name).read_text(encoding="utf-8")
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=structured(OmegaConf.create(text)),
            header=self._get_header_dict(text),
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The groups and files under a name, sorted."""
        found: list[str] = []
        for file in self._at(config_path).iterdir():
            path = f"{config_path}/{file.name}" if config_path else file.name
            self._list_add_result(found, path, file.name, results_filter)
        return sorted(set(found))

    def _at(self, path: str) -> Traversable:
        folder = files(f"lightning_losses.{self.path}")
        return folder.joinpath(path) if path else folder
