"""The preflight as text: what was found, in the units a person reads."""

from sae_lightning.activations import ActivationStats
from sae_lightning.reports import preflight_text
from sae_lightning.reports.preflight import Preflight
from sae_lightning.training.memory import MemoryNeed

MIB = 2**20
NEED = MemoryNeed(lm=100 * MIB, sae=8 * MIB, gradients=8 * MIB, adam=16 * MIB, buffer=1000 * MIB, pre_activations=MIB)
STATS = ActivationStats(
    n=16384,
    median_norm=61.25,
    mean_norm=63.0,
    max_norm=812.4,
    gamma=1.234,
    masked_share=0.0085,
    masked_energy_share=0.75,
)


def test_with_a_language_model() -> None:
    check = Preflight(
        stats=STATS,
        need=NEED,
        available=2048 * MIB,
        centred=True,
        window="Once upon\n\n a   time",
        cross_entropy=3.14159,
        n_windows=20481,
        n_documents=3788,
    )
    assert preflight_text(check).splitlines() == [
        "first window: Once upon a time",
        "the model's cross-entropy on it: 3.142 nats a token",
        "3,788 documents, 20,481 training windows",
        "activations (16,384 sampled tokens): median norm 61.2, mean 63.0, largest 812.4; "
        "gamma = ||mean|| / std = 1.23, centred",
        "masked: 0.85% of the tokens, with 75.0% of the energy (squared norm)",
        "memory: LM 100, SAE 8, gradients 8, Adam 16, buffer 1,000, pre-activations 1 MiB; "
        "1,033 MiB to take, 2,048 MiB free",
    ]


def test_activations_from_a_file_have_no_text() -> None:
    text = preflight_text(Preflight(stats=STATS, need=NEED, available=MIB, centred=False))
    assert "window" not in text
    assert "cross-entropy" not in text
    assert ", not centred" in text


def test_a_long_window_is_cut_and_stays_one_line() -> None:
    words = "word " * 1000
    check = Preflight(
        stats=STATS,
        need=NEED,
        available=MIB,
        centred=False,
        window=words,
        cross_entropy=1.0,
        n_windows=1,
        n_documents=1,
    )
    first = preflight_text(check).splitlines()[0]
    assert first.endswith("...")
    assert len(first) < 330
