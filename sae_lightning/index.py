"""Look features up: ``python -m sae_lightning.index sae=RUN store=DIR`` reads a text into a feature store."""

from omegaconf import DictConfig

from sae_lightning import command
from sae_lightning.config import IndexConfig, validate


def task(composed: DictConfig) -> None:
    """Build the store that the command line says and print what is in it."""
    config = validate(command.plain(composed), IndexConfig)
    command.set_up_logging()
    command.quiet_warnings()
    from sae_lightning.build.indexing import index

    store = index(config)
    if config.parquet:
        command.say(str(store.to_parquet(config.parquet)))
    dead = int((store.stats.count == 0).sum())
    command.say(
        f"{store.n_tokens:,} tokens of {store.n_texts:,} texts, {store.n_kept:,} of them read by the SAE; "
        f"{store.nnz:,} activations of {store.d_sae - dead:,} features ({dead:,} never fired)"
    )
    command.say(str(store.path))


def main() -> None:
    """Run the command."""
    command.main("index", task)


if __name__ == "__main__":
    main()
