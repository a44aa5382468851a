"""The README's Python runs, and its command lines compose."""

import ast
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from sae_lightning import command, launch
from sae_lightning.build import expand_grid
from sae_lightning.config import validate
from tests.conftest import ROOT, planted
from tests.store.planted import planted_store
from tests.test_conf import ENTRIES

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if "-m sae_lightning." in line
]


def test_training_from_plain_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("activations.npy", planted(4096, d=32, n_true=64)[0])
    block = next(b for b in BLOCKS if "SAEModule" in b)
    exec(compile(block, "README.md", "exec"), {})
    from sae_lightning import load_sae

    assert load_sae("my_sae").name == "topk"


@pytest.mark.lm
def test_reading_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from sae_lightning.sae import BatchTopKSAE, initialise, save_sae

    sae = BatchTopKSAE(576, 64, k=4)
    initialise(sae, torch.randn(64, 576, generator=torch.Generator().manual_seed(0)))
    save_sae(tmp_path / "outputs/runs/RUN/export", sae.eval(), {})
    monkeypatch.chdir(tmp_path)
    exec(compile(next(b for b in BLOCKS if "sae.decode" in b), "README.md", "exec"), {})
    assert "64" in capsys.readouterr().out
    said = {"sites": {"read": ["blocks.9.hook_resid_post"], "write": ["blocks.9.hook_resid_post"]}}
    save_sae(tmp_path / "outputs/runs/RUN/export", sae.eval(), said)
    exec(compile(next(b for b in BLOCKS if "steered(" in b), "README.md", "exec"), {})
    assert len(ast.literal_eval(capsys.readouterr().out)) == 5


def test_looking_features_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted_store(tmp_path / "outputs" / "stores", name="news")
    monkeypatch.chdir(tmp_path)
    exec(compile(next(b for b in BLOCKS if "FeatureStore" in b), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 15


def first_value(override: Override) -> object:
    """Return one value of a swept key; the lower end of an interval."""
    value = override.value()
    return value.start if isinstance(value, IntervalSweep) else next(iter(override.sweep_string_iterator()))


NOT_HYDRA_S = ("sae_lightning.sweep ", "sae_lightning.queue ")  # checked by their own tests


@pytest.mark.parametrize(
    "line", [c for c in COMMANDS if not any(w in c for w in ("--help", "resume=", "add_to=", *NOT_HYDRA_S))]
)
def test_command_lines_compose(line: str) -> None:
    words = shlex.split(line)
    entry = words[2].removeprefix("sae_lightning.")
    overrides = expand_grid([w for w in words[3:] if w != "--multirun"])
    if "--multirun" in words:
        parser = OverridesParser.create()
        parsed = [(o, parser.parse_override(o)) for o in overrides if not o.startswith("hydra.")]
        given = [o for o in overrides if o.startswith("hydra.")]
        overrides = given + [
            o if not p.is_sweep_override() else f"{p.key_or_group}={first_value(p)}" for o, p in parsed
        ]
    launch.register()
    raw = command.plain(command.compose(entry, overrides))
    if entry in ENTRIES:
        validate(raw, ENTRIES[entry])
