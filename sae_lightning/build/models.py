"""From config to the language model that a run reads, or two of them, and to the names of its sites."""

from sae_lightning.build.device import pick_device
from sae_lightning.config import LMConfig, SitesConfig
from sae_lightning.core import Sites
from sae_lightning.lm import FrozenLM, LazyLM, PairedLM, resolve_sites
from sae_lightning.lm.sites import MEMBERS, member_of


def build_lm(config: LMConfig, seed: int) -> LazyLM:
    """Return the frozen language model of a config; its weights are read when something has to go through it.

    seed: of a tiny one, unless its options name one.
    """
    return LazyLM(
        config.name,
        device=pick_device(config.device),
        dtype=config.dtype,
        revision=config.revision,
        device_map=config.device_map,
        **{"seed": seed, **config.options},
    )


def build_model(config: LMConfig, tuned: LMConfig | None, seed: int) -> FrozenLM:
    """Return the language model, or both of them as one. Raises UserError for two that do not read the same text."""
    base = build_lm(config, seed)
    return base if tuned is None else PairedLM(base, build_lm(tuned, seed))


def build_sites(config: SitesConfig, lm: FrozenLM) -> Sites:
    """Return the names of the sites that are read and written. Raises UserError for one that the model lacks."""
    read = resolve_sites(config.kind, config.numbers, names=config.read, n_layers=lm.n_layers)
    write = read
    if config.read is not None and config.write is not None:
        write = tuple(config.write)
    elif config.read is None and config.write_kind is not None:
        write = resolve_sites(config.write_kind, config.numbers, n_layers=lm.n_layers)
    if config.diff:
        read, write = in_both(read), in_both(write)
    for name in dict.fromkeys([*read, *write]):
        lm.check_site(name)
    return Sites(read=read, write=write)


def in_both(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return these sites in the first model, then in the second; names that say in which stay as they are."""
    if any(member_of(name)[0] is not None for name in names):
        return names
    return tuple(f"{member}/{name}" for member in MEMBERS for name in names)
