"""What a feature of activation 1 adds to the reconstruction."""

from jaxtyping import Float
from torch import Tensor

from sae_lightning.sae import SparseAutoencoder


def written(sae: SparseAutoencoder) -> Float[Tensor, "d_sae d_out"]:
    """Return what each feature adds per unit of activation, float64 on the SAE's device: its decoder row.

    Divided by its norm under ``rescale_acts_by_decoder_norm``. Of several sites the rows lie side by side. Under
    ``layer_norm`` in units of each token's standard deviation.
    """
    rows = sae.W_dec.detach().double()
    return rows / sae.decoder_norms().detach().double()[:, None] if sae.rescale_acts_by_decoder_norm else rows
