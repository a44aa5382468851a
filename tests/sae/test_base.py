import inspect

import pytest
import torch
from pydantic import ConfigDict, ValidationError, create_model

from sae_lightning.core import UserError
from sae_lightning.sae import SparseAutoencoder, sae_class
from tests.sae.naive_sae import ARCHITECTURES, build, naive_forward, parameters_of

CASES = [
    *[(name, {}) for name in ARCHITECTURES],
    *[(name, {"rescale_acts_by_decoder_norm": True}) for name in ARCHITECTURES],
    *[(name, {"d_out": 7, "skip": True}) for name in ARCHITECTURES],
    *[(name, {"layer_norm": True, "subtract_b_dec": False}) for name in ARCHITECTURES],
    ("standard", {"negative_slope": 0.1}),
    ("topk", {"selection": "abs_topk"}),
    ("topk", {"selection": "group_max"}),
    ("topk", {"k_start": 20, "k_anneal": 0.5}),
    ("matryoshka", {"k_start": 20, "k_anneal": 0.5, "rescale_acts_by_decoder_norm": True}),
]


def rows(n=33, d=12, seed=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def losses(y_hat, f, z, weight):
    """Touches the reconstruction, the activations and (where they carry gradients) the pre-activations."""
    total = (y_hat * weight).sum() + 0.3 * f.square().sum()
    return total + 0.1 * z.relu().sum() if z is not None else total


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_forward_and_gradients_equal_the_naive_formula(name, options, training):
    sae = build(name, **options).double().train(training)
    sae.set_progress(0.25)
    if hasattr(sae, "threshold"):
        sae.threshold.fill_(0.4)
    x = rows().double().requires_grad_()
    p = parameters_of(sae)
    x_naive = x.detach().clone().requires_grad_()
    y_naive, f_naive, z_naive = naive_forward(sae, p, x_naive)
    out = sae(x)
    torch.testing.assert_close(out.y_hat, y_naive, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(out.features.dense(), f_naive, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(out.pre_acts.double(), z_naive, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sae.pre_acts(x), z_naive, rtol=1e-10, atol=1e-10)
    weight = rows(33, sae.d_out, seed=6).double()
    dense_z = out.pre_acts.requires_grad
    assert dense_z == (not out.features.is_sparse)
    losses(out.y_hat, out.features.values, out.pre_acts if dense_z else None, weight).backward()
    losses(y_naive, f_naive, z_naive if dense_z else None, weight).backward()
    for parameter_name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter.grad, p[parameter_name].grad, rtol=1e-8, atol=1e-8, msg=parameter_name)
    torch.testing.assert_close(x.grad, x_naive.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_decode_of_encode_is_forward(name):
    for layer_norm in (False, True):
        sae = build(name, layer_norm=layer_norm).eval()
        torch.testing.assert_close(sae.decode(sae.encode(rows())), sae(rows()).y_hat)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_selected_pre_acts_equal_the_dense_ones(name, rescale):
    sae = build(name, rescale_acts_by_decoder_norm=rescale).double()
    x = rows().double()
    chosen = torch.rand(33, 40, generator=torch.Generator().manual_seed(1)) < 0.2
    indices = chosen.nonzero()[:, 1].contiguous()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), chosen.sum(1).cumsum(0)])
    p = parameters_of(sae)
    z = naive_forward(sae, p, x)[2]
    (z[chosen].relu().square().sum()).backward()
    for given in (None, z.detach()):
        sae.zero_grad()
        values = sae.selected_pre_acts(x, indices, offsets, given)
        torch.testing.assert_close(values, z[chosen], rtol=1e-10, atol=1e-10)
        values.relu().square().sum().backward()
        for key in ("W_enc", "b_enc", "b_dec", *(("W_dec",) if rescale else ())):
            torch.testing.assert_close(getattr(sae, key).grad, p[key].grad, rtol=1e-8, atol=1e-8, msg=key)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bfloat16_autocast_trains_in_float32(name):
    sae = build(name, 32, 64)
    x = rows(64, 32)
    exact = sae(x).y_hat
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sae(x)
    assert out.y_hat.dtype == torch.float32
    (out.y_hat - x).square().mean().backward()
    gradients = [p.grad for p in sae.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    # Rounded pre-activations select other features near the threshold, so only roughly equal.
    assert (out.y_hat - exact).norm() < 0.2 * exact.norm()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_signature_validates_options(name):
    cls = sae_class(name)
    parameters = list(inspect.signature(cls).parameters.values())
    fields = {p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in parameters}
    model = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)
    checked = model.model_validate({"d_in": 8, "d_sae": 64})
    sae = cls(**{key: getattr(checked, key) for key in fields})
    assert cls(**sae.options()).options() == sae.options()
    for wrong in ({"d_sae": 0}, {"k": 0}, {"k": 2.5}, {"bandwidth": -1.0}, {"skip": "maybe"}, {"selection": "best"}):
        with pytest.raises(ValidationError):
            model.model_validate({"d_in": 8, "d_sae": 64} | wrong)


def test_users_mistakes():
    topk = sae_class("topk")
    with pytest.raises(UserError, match=r"k=9.*d_sae=8"):
        topk(4, 8, k=9)
    with pytest.raises(UserError, match="group_max"):
        topk(4, 8, k=3, selection="group_max")
    with pytest.raises(UserError, match="subtract_b_dec"):
        topk(4, 8, 5, k=3, subtract_b_dec=True)
    with pytest.raises(UserError, match=r"\[n, 12\]"):
        build("topk").encode(torch.zeros(3, 11))
    with pytest.raises(UserError, match="groups"):
        sae_class("matryoshka")(4, 8, k=2, groups=(1 / 32, 0.5))


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(TypeError, match="topk"):
        type("Other", (SparseAutoencoder,), {"name": "topk"})


def test_counts_and_flags():
    sae = sae_class("topk")(8, 64, k=4)
    assert sae.n_parameters == 2 * 8 * 64 + 64 + 8
    assert sae.nominal_l0 == sae.k_effective == 4
    assert sae_class("standard")(8, 64).nominal_l0 is None
    assert sae.unit_norm_decoder
    assert not sae_class("topk")(8, 64, 5, k=4).unit_norm_decoder
    assert not sae_class("jumprelu")(8, 64).unit_norm_decoder


def test_k_anneals():
    sae = sae_class("topk")(8, 64, k=4, k_start=24, k_anneal=0.5)
    seen = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        sae.set_progress(progress)
        seen.append(sae.k_effective)
    assert seen == [24, 14, 4, 4]
