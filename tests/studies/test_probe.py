"""Labelled texts, their vectors and probes of them, against the long way and against planted answers."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array

from sae_lightning.activations import Harvester, MaskPolicy
from sae_lightning.core import Sites, UserError, torch_generator
from sae_lightning.lm import FrozenLM
from sae_lightning.sae.topk import TopKSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation.labelled_texts import choose_texts
from sae_lightning.studies.evaluation.probe import COLUMNS, ProbeStudy
from sae_lightning.studies.evaluation.probing import Probes, Scores, balanced_mean, class_tasks
from sae_lightning.studies.evaluation.text_vectors import read_texts
from sae_lightning.tokens import ListSource, Windows, write_tokens
from tests.studies.planted_texts import LabelledList, pairs

CHOICE = {"max_texts": 100, "min_per_class": 20, "test_fraction": 0.3, "seed": 0}


def subject_with(tmp_path: Path, prepend_bos: bool = False) -> Subject:
    lm = FrozenLM.load("tiny", dtype="float32", seed=3)
    store = write_tokens(ListSource(["nothing to see here"]), lm.tokenizer, tmp_path / "t.bin", vocab_size=257)
    windows = Windows(
        store, "all", context_length=16, separator_id=256, bos_id=lm.bos_id, prepend_bos=prepend_bos, pad_id=0
    )
    site = ("blocks.1.hook_resid_post",)
    mask = MaskPolicy(special_ids=(256,), first_position=True, norm_multiple=None)
    sae = TopKSAE(lm.d_model, 64, k=6)
    g = torch_generator(5, "tests", "probe")
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.2
    return Subject(sae, lm, Harvester(lm, Sites(site, site), windows, mask, micro_batch=4), (0,))


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return subject_with(tmp_path)


# Choosing texts


def test_choice_is_balanced_without_repeats_and_independent_of_the_files_order() -> None:
    some = pairs(300, ("a", "b", "c"))
    noise = [
        (some[0][0], "a"),
        (some[1][0], "c"),
        ("   ", "a"),
        ("no label", ""),
        *[(f"rare {i}", "d") for i in range(9)],
    ]
    chosen = choose_texts(LabelledList([*some, *noise]), **CHOICE)
    assert chosen.classes == ("a", "b", "c")
    for side in (chosen.test, ~chosen.test):
        assert len(set(np.bincount(chosen.labels[side]))) == 1
    assert 80 <= len(chosen.texts) <= 100
    assert 0.2 < chosen.test.mean() < 0.4
    assert len(set(chosen.texts)) == len(chosen.texts)
    label_of = {text.strip(): label for text, label in some}
    assert [label_of[t] for t in chosen.texts] == [chosen.classes[i] for i in chosen.labels]
    assert some[1][0].strip() not in chosen.texts  # under two labels
    said = " ".join(chosen.notes)
    for part in ("'d' (9)", "1 texts without a label", "1 texts under two labels"):
        assert part in said
    again = choose_texts(LabelledList([*some, *noise][::-1]), **CHOICE)
    assert again.texts == chosen.texts
    assert (again.test == chosen.test).all()
    assert choose_texts(LabelledList(some), **{**CHOICE, "seed": 1}).texts != chosen.texts


@pytest.mark.parametrize("n_classes", [2, 4, 30])
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.93])
@pytest.mark.parametrize("most", [40, 60, 299, 300, 900])
def test_never_more_texts_than_asked_for(n_classes: int, fraction: float, most: int) -> None:
    some = [(f"text {i}", f"class {i % n_classes}") for i in range(n_classes * 250)]
    asked = {"max_texts": most, "min_per_class": 10, "test_fraction": fraction}
    # Every class has texts enough on either side, whatever the share of the test side.
    if most < 10 * n_classes:
        rule = f"max_texts={most}: of pairs are {n_classes} classes, and each needs 10 texts, .* raise it to"
        with pytest.raises(UserError, match=f"{rule} {10 * n_classes}$"):
            choose_texts(LabelledList(some), **asked)
        return
    chosen = choose_texts(LabelledList(some), **asked)
    each = most // n_classes
    for side, least in ((chosen.test, 5), (~chosen.test, 5)):
        sizes = set(np.bincount(chosen.labels[side]).tolist())
        assert len(sizes) == 1
        assert sizes.pop() >= least
    assert len(chosen.classes) == n_classes
    assert len(chosen.texts) <= most
    if fraction == 0.3 and n_classes * each <= n_classes * 70:
        assert len(chosen.texts) == n_classes * each


def test_side_follows_from_the_text_alone() -> None:
    one = choose_texts(LabelledList(pairs(200)), **{**CHOICE, "max_texts": 1000})
    two = choose_texts(LabelledList(pairs(400)), **{**CHOICE, "max_texts": 1000, "seed": 5})
    sides = dict(zip(two.texts, two.test, strict=True))
    shared = [(sides[t], side) for t, side in zip(one.texts, one.test, strict=True) if t in sides]
    assert len(shared) > 100
    assert all(a == b for a, b in shared)


@pytest.mark.parametrize(
    "found", [[], [("x", "only")] * 3, [(f"text {i}", "only") for i in range(100)], pairs(30)], ids=len
)
def test_fewer_than_two_classes_are_refused(found: list[tuple[str, str]]) -> None:
    with pytest.raises(UserError, match=r"labelled texts of pairs: classes are .*; a probe needs two of at least 20"):
        choose_texts(LabelledList(found), **CHOICE)


# Vectors


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("prepend_bos", [False, True])
def test_vectors_equal_the_long_way(tmp_path: Path, pool: str, prepend_bos: bool) -> None:
    subject = subject_with(tmp_path, prepend_bos)
    lm, sae = subject.lm, subject.sae
    assert lm is not None
    texts = ["hello", "a" * 90, "x", "", "something of some more characters", "<|endoftext|>ab"]
    found = read_texts(subject, texts, max_tokens=40, pool=pool, show_progress=False)  # type: ignore[arg-type]
    assert found.tokens.tolist() == [5, 39, 1, 0, 33, 2] if prepend_bos else [4, 39, 0, 0, 32, 2]
    for i, text in enumerate(texts):
        ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ([256] if prepend_bos else []) + list(ids)
        ids = ids[:40]
        kept = [p for p in range(1, len(ids)) if ids[p] != 256]
        if not kept:
            assert found.features[[i]].nnz == 0
            continue
        site = "blocks.1.hook_resid_post"
        x = lm.activations(torch.tensor([ids]), [site])[site][0, kept]
        with torch.no_grad():
            f = sae.eval().encode(x).dense().double()
        expected = f.mean(0) if pool == "mean" else f.amax(0)
        np.testing.assert_allclose(found.features[[i]].toarray()[0], expected.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.acts[i], x.double().mean(0).numpy(), rtol=1e-4, atol=1e-5)


# Probes


def planted(n: int = 400, n_classes: int = 3) -> tuple[csc_array, np.ndarray, np.ndarray, np.ndarray]:
    """Feature 7 + c fires for class c mostly; the others at random; activations hold the class exactly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, n)
    f = rng.exponential(1.0, (n, 40)) * (rng.random((n, 40)) < 0.2)
    for c in range(n_classes):
        f[:, 7 + c] = ((labels == c) ^ (rng.random(n) < 0.05)) * (1 + rng.random(n))
    f[:, 20] = 0
    acts = rng.standard_normal((n, 12))
    acts[:, 3] += 6 * labels
    acts[:, 4] += 6 * (labels == 1)
    return csc_array(f), acts, labels, rng.random(n) < 0.3


def by_kind(found: list[Scores]) -> dict[tuple[str, int | None], Scores]:
    return {(one.kind, one.k): one for one in found}


def test_probes_find_the_planted_feature_between_floor_and_ceiling() -> None:
    f, acts, labels, test = planted()
    probes = Probes(f, acts, test, (1, 2, 100), seed=0)
    for c, task in class_tasks(labels, 3, test).items():
        assert task.a_train.sum() == pytest.approx(1)
        found = by_kind(list(probes.scores(task)))
        assert found["1d", 1].features == (7 + c,)
        assert found["sparse", 1].features == (7 + c,)
        assert len(found["sparse", 2].features) == 2
        n_alive = 39
        assert ("sparse", n_alive) in found
        mean = {key: balanced_mean(one.right, task.y_test, np.ones((1, test.sum())))[0] for key, one in found.items()}
        assert 0.85 < mean["1d", 1] < 1
        assert mean["random", 1] < 0.65
        assert mean["dense", None] > mean["1d", 1]
        loss = {key: balanced_mean(one.loss, task.y_test, np.ones((1, test.sum())))[0] for key, one in found.items()}
        assert loss["dense", None] < loss["1d", 1] < np.log(2) * 0.7
        assert loss["1d", 1] == pytest.approx(loss["sparse", 1], abs=1e-3)


def test_labels_of_test_texts_do_not_reach_the_probes() -> None:
    f, acts, labels, test = planted()
    turned = labels.copy()
    turned[test] = (turned[test] + 1) % 3
    for c in range(3):
        a, b = (list(Probes(f, acts, test, (2,), 0).scores(class_tasks(y, 3, test)[c])) for y in (labels, turned))
        assert [one.features for one in a] == [one.features for one in b]
        # The same logits, so the losses of a text and of the turned one differ by the logit alone.
        wrong = class_tasks(turned, 3, test)[c].y_test != class_tasks(labels, 3, test)[c].y_test
        assert all(np.allclose(x.loss[~wrong], y.loss[~wrong]) for x, y in zip(a, b, strict=True))


def test_balanced_mean_by_hand() -> None:
    y, v = np.array([1.0, 1, 0, 0, 0]), np.array([1.0, 0, 1, 1, 0])
    weights = np.array([[1.0, 1, 1, 1, 1], [2, 0, 1, 0, 2], [0, 0, 1, 1, 3]])
    found = balanced_mean(v, y, weights)
    assert found[:2].tolist() == pytest.approx([(0.5 + 2 / 3) / 2, (1 + 1 / 3) / 2])
    assert np.isnan(found[2])


def test_two_classes_make_one_task_and_no_feature_leaves_the_dense_probe() -> None:
    f, acts, labels, test = planted(n_classes=2)
    tasks = class_tasks(labels, 2, test)
    assert list(tasks) == [1]
    assert [one.kind for one in Probes(csc_array(f.shape), acts, test, (1,), 0).scores(tasks[1])] == ["dense"]


# The study


def write(path: Path, found: list[tuple[str, str]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["question", "verdict"], *found])
    return str(path)


def test_a_users_own_texts(subject: Subject, tmp_path: Path) -> None:
    path = write(tmp_path / "own.csv", pairs(240, ("safe", "unsafe")))
    study = ProbeStudy(
        path=path, text="question", label="verdict", k=(1, 3), max_texts=160, min_per_class=20, show_progress=False
    )
    assert study.reason(subject) is None
    result = study.run(subject)
    v = result.values
    kinds = ["probe", "sparse_probe", "random_probe", "dense_probe"]
    names = [f"{kind}_{m}/own" for kind in kinds for m in ("accuracy", "loss")]
    expected = {n + k for n in names for k in (("/k1", "/k3") if n[:6] in ("sparse", "random") else ("",))}
    assert set(v) == set(result.draws) == expected
    assert v["dense_probe_accuracy/own"] > 0.9  # type: ignore[operator]
    assert 0.9 < v["sparse_probe_accuracy/own/k3"] <= 1  # type: ignore[operator]
    assert v["random_probe_accuracy/own/k1"] < v["probe_accuracy/own"]  # type: ignore[operator]
    for name, e in result.estimates.items():
        assert e.low <= e.value <= e.high, name  # type: ignore[operator]
        assert e.tokens > 100
    table = result.tables["own"]
    assert table.columns == COLUMNS
    assert {row[0] for row in table.rows} == {"unsafe"}
    assert "2 classes (safe, unsafe)" in result.notes[0]
    assert study.run(subject).to_json() == result.to_json()
    for low, high, column in ((0, 1, "accuracy"), (0, 3, "loss")):
        values = [row[COLUMNS.index(column)] for row in table.rows]
        assert all(low <= value <= high for value in values)  # type: ignore[operator]


def test_where_there_are_no_intervals_a_note_says_why(subject: Subject, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    some = [(f"{i} " + "".join(rng.choice(list("abcdef"), 6)), f"class {i % 30:02}") for i in range(30 * 60)]
    path = write(tmp_path / "own.csv", some)
    own = {"path": path, "text": "question", "label": "verdict", "k": (1,), "show_progress": False, "draws": 200}
    few = ProbeStudy(**own, max_texts=300).run(subject)
    assert all(estimate.low is estimate.high is None for estimate in few.estimates.values())
    note = few.notes[-1]
    assert f"own: {len(few.estimates)} figures have no interval: " in note
    assert "resamples of 150 test texts miss one of 30 classes (at most 10% may); raise studies.probe.max" in note
    assert int(note.split("%")[0].split()[-1]) > 10
    with pytest.raises(UserError, match=r"max_texts=60: of .*own.csv are 30 classes, .* raise it to 300"):
        ProbeStudy(**own, max_texts=60).run(subject)
    enough = ProbeStudy(**own, max_texts=1500).run(subject)
    assert all(estimate.low is not None for estimate in enough.estimates.values())
    assert not any("no interval" in note for note in enough.notes)


def test_a_dead_sae_leaves_the_dense_probe_and_a_note(subject: Subject, tmp_path: Path) -> None:
    with torch.no_grad():
        subject.sae.W_enc.zero_()
        subject.sae.b_enc.fill_(-1.0)
    path = write(tmp_path / "own.csv", pairs(240))
    study = ProbeStudy(path=path, text="question", label="verdict", min_per_class=20, show_progress=False)
    result = study.run(subject)
    assert set(result.values) == {"dense_probe_accuracy/own", "dense_probe_loss/own"}
    assert "own: no feature fires on the training texts" in result.notes[-1]


def test_what_cannot_be_probed(subject: Subject, tmp_path: Path) -> None:
    alone = Subject(subject.sae, rows=torch.zeros(5, 32))
    study = ProbeStudy(path=write(tmp_path / "one.csv", [("a", "b")] * 50), text="question", label="verdict")
    assert "needs a language model" in (study.reason(alone) or "")
    with pytest.raises(UserError, match="probe: needs a language model"):
        study.run(alone)
    with pytest.raises(UserError, match=r"classes are 'b' \(1\); a probe needs two"):
        study.run(subject)
    with pytest.raises(UserError, match=r"no field 'text', it has .*; set studies.probe.text"):
        ProbeStudy(path=str(tmp_path / "one.csv")).run(subject)
    with pytest.raises(UserError, match=r"studies.probe.tasks=\[\]"):
        ProbeStudy(tasks=())
