"""A run that starts from a trained SAE instead of random weights: ``init_from``."""

from pathlib import Path

from sae_lightning.activations import Normaliser
from sae_lightning.build.data import Data
from sae_lightning.build.lm_check import check_lm
from sae_lightning.core import UserError
from sae_lightning.sae import SparseAutoencoder, formats
from sae_lightning.sae.fold import unfold
from sae_lightning.sae.sharding import part_of

# Largest over smallest norm of decoder rows that count as one.
_SAME_NORM = 1.1


def start_from(sae: SparseAutoencoder, path: str, normaliser: Normaliser, data: Data) -> None:
    """Give ``sae`` the weights of the SAE in ``path``: folded for raw rows, brought back to normalised ones.

    Its function is that of the SAE it comes from, whatever that one was normalised by. Options that are no weights (k,
    coefficients) are the run's own. Raises UserError where architecture, widths, sites or language model differ.
    """
    trained = formats.read(Path(path).expanduser())
    for name, theirs, ours in (
        ("model", trained.name, sae.name),
        ("sae.d_sae", trained.d_sae, sae.d_sae),
        ("width read", trained.d_in, sae.d_in),
        ("width written", trained.d_out, sae.d_out),
        ("sae.skip", trained.skip, sae.skip),
    ):
        if theirs != ours:
            raise UserError(f"init_from={path}: its {name} is {theirs}, this run's is {ours}; set the same")
    said, own = trained.metadata, data.metadata
    if own.get("lm"):
        check_lm(said.get("lm"), own["lm"], path, "init_from", "give lm=... with that one")
    for side in ("read", "write"):
        theirs, ours = ((m.get("sites") or {}).get(side) for m in (said, own))
        if theirs and ours and list(theirs) != list(ours):
            raise UserError(
                f"init_from={path}: was trained to {side} {', '.join(theirs)}, this run {side}s {', '.join(ours)}; set "
                "the same sites"
            )
    weights = unfold(trained, normaliser)
    if weights.layer_norm != sae.layer_norm:
        raise UserError(
            f"init_from={path}: normalises every row by itself, which this run (normalise.mode={normaliser.mode}) does "
            "not; use normalise=layer_norm"
        )
    if sae.rescale_acts_by_decoder_norm and not sae.features_scale_freely:
        _check_norms(weights, path)
    if weights.subtract_b_dec != sae.subtract_b_dec:
        # The same function, written as this run's SAE writes it: with b_dec taken off what is read, or in b_enc.
        weights.subtract_b_dec = False
        weights.shift_input_(weights.b_dec if sae.subtract_b_dec else -weights.b_dec)
    sae.load_state_dict(part_of(sae, weights.state_dict()))


def _check_norms(weights: SparseAutoencoder, path: str) -> None:
    """Raise UserError where multiplying activations by decoder norms would choose other features.

    An SAE that was trained so has the same norm in every row, but for what two normalisers fitted on different samples
    differ in.
    """
    norms = weights.decoder_norms()
    alive = norms[weights.W_dec.norm(dim=1) > 0]
    if len(alive) and float(alive.max()) > _SAME_NORM * float(alive.min()):
        raise UserError(
            f"init_from={path}: its decoder rows have norms from {float(alive.min()):.2f} to {float(alive.max()):.2f}, "
            "and sae.rescale_acts_by_decoder_norm=true would choose its features by them; set it to false"
        )
