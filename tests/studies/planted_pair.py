"""Two models whose features lie at right angles, and SAEs that read them off in ways that are known."""

import torch

from sae_lightning.activations.synthetic import TwoModels
from sae_lightning.activations.synthetic.settings import FiringProbability
from sae_lightning.sae import JumpReLUSAE
from sae_lightning.studies import Subject

WIDTH = 16
#: What a trained SAE's normaliser did: the tuned model's activations are twice as large.
SCALES = (2.0, 1.0)


def pair(**settings) -> TwoModels:
    """Return 8 shared features, 4 of the base alone and 4 of the tuned model alone, all at right angles."""
    given = {"shared": 8, "base_only": 4, "tuned_only": 4, "width": WIDTH, "cosine": 1.0, "tuned_scale": 2.0}
    firing = FiringProbability(type="random", min_prob=0.05, max_prob=0.2)
    model = TwoModels(**(given | settings), firing_probability=firing, std_firing_magnitudes=0.2)
    axes = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))).Q
    halves = model.directions.unflatten(1, (2, WIDTH)).norm(dim=2)
    model.directions = (halves[:, :, None] * axes[:, None, :]).flatten(1)
    return model


def reader(model: TwoModels, decoder: torch.Tensor | None = None, features: list[int] | None = None) -> JumpReLUSAE:
    """Return the SAE that reads ``features`` off exactly (default: all) and writes the rows of ``decoder``."""
    directions = model.directions if features is None else model.directions[features]
    decoder = directions if decoder is None else decoder
    sae = JumpReLUSAE(2 * WIDTH, len(decoder), site_widths=(WIDTH, WIDTH))
    sae.load_state_dict(
        sae.state_dict()
        | {
            "W_enc": directions.T.clone(),
            "W_dec": decoder.clone(),
            "b_dec": model.bias.clone(),
            "log_theta": torch.full((len(decoder),), 1e-3).log(),
        }
    )
    names = list(model.site_widths or ())
    widths = [WIDTH, WIDTH]
    sae.metadata = {
        "sites": {"read": names, "write": names, "widths": widths, "widths_out": widths, "scale_out": list(SCALES)}
    }
    return sae.eval()


def subject(sae: JumpReLUSAE, model: TwoModels, blocks: int = 10) -> Subject:
    return Subject(sae, windows=range(blocks), truth=model)
