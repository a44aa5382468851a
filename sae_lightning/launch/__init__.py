"""How a sweep's runs are chosen and started: Hydra sweepers and launchers of our own.

Hydra finds its plugins in installed packages named ``hydra_plugins``; ``register`` hands it ours instead.
"""

# The classes live here in the eyes of Hydra, which takes a plugin's _target_ from no other package.
_PREFIX = "hydra_plugins.sae_lightning"


def register() -> None:
    """Make our launchers and sweepers known to Hydra; call before ``hydra.main``. Cheap: heavy imports come later.

    A yaml names them ``_target_: hydra_plugins.sae_lightning.CLASS``.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    from sae_lightning.launch.joblib_launcher import JoblibLauncher
    from sae_lightning.launch.optuna_sweeper import OptunaSweeper
    from sae_lightning.launch.slurm_launcher import SlurmLauncher

    plugins = Plugins.instance()
    for plugin in (JoblibLauncher, OptunaSweeper, SlurmLauncher):
        plugins.register(plugin)
        plugins.class_name_to_class[f"{_PREFIX}.{plugin.__name__}"] = plugin
    # hydra-joblib-launcher, where it is installed, has a schema of this name, and hydra would hold our yaml to it.
    ConfigStore.instance().repo.get("hydra", {}).get("launcher", {}).pop("joblib.yaml", None)


__all__ = ["register"]
