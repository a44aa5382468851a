"""Train a sparse autoencoder: ``python -m sae_lightning.train``, or with ``--multirun`` a sweep of them."""

import logging
import signal
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sae_lightning import command
from sae_lightning.config import RunConfig, load_config, save_config, validate, with_absolute_paths
from sae_lightning.core.errors import UserError
from sae_lightning.core.files import write_json

logger = logging.getLogger("sae_lightning.train")
_ALLOWED_WITH_RESUME = ("resume", "progress")


def train(config: RunConfig, run_dir: Path, *, resume: bool = False) -> Path:
    """Train the run of a config in its folder (from its last good checkpoint with ``resume``); return the folder."""
    command.quiet_warnings()
    import torch

    # Before torch has started its threads: they inherit it. See SAEModule.on_fit_start.
    torch.set_flush_denormal(True)
    from sae_lightning.activations import StopRequested
    from sae_lightning.build import build_run
    from sae_lightning.reports import describe_environment, preflight_text, show_summary
    from sae_lightning.training import last_good
    from sae_lightning.training.callbacks import Export, StopSignal, find

    if resume and not any((run_dir / "checkpoints").glob("step-*")):
        # Killed before its first checkpoint: the same seed from step 0 gives the same bits.
        logger.warning("%s: no checkpoint yet, starting from step 0", run_dir)
        resume, continued = False, True
    else:
        continued = resume
    checkpoint = last_good(run_dir) if resume else None
    with command.run_folder(run_dir, keep=continued):
        text = save_config(config, run_dir)
        run = build_run(config, run_dir, text, resume=resume)
        environment = "environment_resumed.json" if continued else "environment.json"
        write_json(run_dir / environment, describe_environment())
        for line in preflight_text(run.preflight).splitlines():
            logger.info("%s", line)
        if checkpoint is not None:
            logger.info("resuming from %s", checkpoint)
    try:
        run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=checkpoint, weights_only=True)
    except StopRequested as stop:
        logger.warning("stopped (%s); continue with: python -m sae_lightning.train resume=%s", stop, run_dir)
        stopped = find(run.trainer, StopSignal)
        raise SystemExit(128 + ((stopped and stopped.received) or signal.SIGINT)) from None
    if config.trainer.profiler:
        command.say(run.trainer.profiler.summary())  # pyright: ignore[reportAttributeAccessIssue]
    export = find(run.trainer, Export)
    assert export is not None
    files = {"run folder": run_dir, "export": run_dir / "export", "metrics": run_dir / "metrics.json"}
    show_summary(next(iter(export.metrics.values())), files)
    return run_dir


def task(composed: DictConfig) -> None:
    """One composed config, as the command line or a sweep made it."""
    raw = command.plain(composed)
    hydra_config = HydraConfig.get()
    if raw["resume"] is not None:
        if not isinstance(raw["resume"], str) or not raw["resume"]:
            raise UserError(f"resume={raw['resume']}: must be the folder of a run; give its path")
        run_dir = Path(raw["resume"]).expanduser().resolve()
        given = [o.split("=", 1)[0].lstrip("+~") for o in hydra_config.overrides.task]
        extra = [key for key in given if key not in _ALLOWED_WITH_RESUME]
        if extra:
            raise UserError(f"resume={raw['resume']}: a run goes on with its own config; leave out {', '.join(extra)}")
        config = load_config(run_dir).model_copy(update={"progress": raw["progress"]})
        if (run_dir / "metrics.json").is_file():
            raise UserError(f"resume={raw['resume']}: this run is complete (it has metrics.json); start a new one")
        command.set_up_logging(run_dir / "train.log")
        train(config, run_dir, resume=True)
        return
    config = with_absolute_paths(validate(raw))
    from sae_lightning.build import new_run_dir

    sweep = hydra_config.mode == RunMode.MULTIRUN
    run_dir = new_run_dir(config, str(Path(hydra_config.sweep.dir, str(hydra_config.sweep.subdir))) if sweep else None)
    command.set_up_logging(run_dir / "train.log")
    train(config, run_dir)


if __name__ == "__main__":
    command.main("train", task)
