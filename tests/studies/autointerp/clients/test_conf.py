"""The options of the group ``client`` name every setting of their class, with the class's own defaults."""

import inspect
from typing import Any

import pytest
from omegaconf import OmegaConf

from sae_lightning.build.instantiate import check_node, target_of
from sae_lightning.command import conf_dir


@pytest.mark.parametrize("name", ["openai", "local"])
def test_options_are_their_classes_settings(name: str):
    node: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "client" / f"{name}.yaml"))
    parameters = inspect.signature(target_of(node, "client")).parameters
    assert set(node) - {"_target_"} == set(parameters) - {"show_progress"}
    needed = {key for key, value in node.items() if value == "???"}
    assert needed == {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    for key in set(node) - needed - {"_target_"}:
        assert node[key] == parameters[key].default
    check_node(node | dict.fromkeys(needed, "x"), "client", {"show_progress"})
