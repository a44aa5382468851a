"""The site of one reading: whole, inert, and with the numbers that the store has."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.core import Estimate, UserError
from sae_lightning.reports.site import Extent, Reading, write_site
from sae_lightning.reports.site.features import PER_FILE
from sae_lightning.reports.site.sections import cards, gathered
from sae_lightning.reports.site.shell import folder_names, palette, plotly_script
from sae_lightning.studies.study import Result
from tests.reports.reader import Reader
from tests.reports.site.data import read_data, read_feature
from tests.reports.site.example_reading import EVIL, FEATURES, example_reading
from tests.store.planted import HOSTILE

PAGES = ("index.html", "features.html", "feature.html", "texts.html")


def pages(site: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}


def read(page: str) -> Reader:
    """Read a page; its one template with an open end is the head's links."""
    return Reader(re.sub(r"<(link|col|img|input|meta)\b([^>]*)>", r"<meta\2>", page))


def test_every_page_is_whole_and_refers_to_nothing_outside_its_folder(site: Path) -> None:
    found = pages(site)
    assert sorted(found) == sorted(PAGES)
    for page in found.values():
        reader = read(page)
        assert reader.open == []
        for address in reader.addresses:
            if address.startswith(("#", "data:,")):
                continue
            assert not re.match(r"[a-z]+:|//", address), address
            assert (site / address.split("?")[0].split("#")[0]).is_file(), address
        assert "default-src &#39;none&#39;" in page
        assert " on" + "click=" not in page
    assert (site / "assets" / "plotly.min.js").read_text(encoding="utf-8") == plotly_script()
    assert not list(site.rglob("*.py"))


def test_no_page_and_no_data_file_holds_a_tag_of_the_corpus(site: Path) -> None:
    assert EVIL in json.dumps(read_data(site, "notes"), ensure_ascii=False).replace('\\"', '"')
    for path in [*site.glob("*.html"), *site.rglob("data/**/*.js")]:
        text = path.read_text(encoding="utf-8")
        assert "<img" not in text, path
        assert "<script>alert" not in text, path
        assert "\u2028" not in text, path
        assert "\u202e" not in text, path
        assert all(ord(c) >= 0x20 or c == "\n" for c in text), path
        if path.suffix == ".js":
            assert not set(text) & set("<>&"), path


def test_only_what_calls_the_web_the_web_becomes_a_link(site: Path) -> None:
    found = read_data(site, "sources/00000")
    assert found["0"] == ["Text <b>0</b>", "https://example.org/0"]


def test_examples_are_the_strongest_tokens_with_their_exact_text(site: Path, reading: Reading) -> None:
    dense = reading.store.to_scipy().toarray()
    shown = 0
    for feature in range(FEATURES):
        found, vocabulary = read_feature(site, feature, PER_FILE)
        values = dense[:, feature]
        assert found["count"] == np.count_nonzero(values)
        assert found["most"] == pytest.approx(values.max(), rel=1e-3)
        assert sum(found["bins"]) == found["count"]
        top = [example[0] for example in found["top"]]
        assert top == sorted(top, reverse=True)
        if len(top) == Extent().top:
            assert top[0] == pytest.approx(values.max(), rel=1e-3)
        for example in [*found["top"], *found["lowest"], *(e for s in found["slices"] for e in s["examples"])]:
            value, text, position, peak, pieces, sparse = example[:6]
            token = int(reading.store.text_starts[text]) + position
            first = token - peak
            assert reading.store.kept[token]
            assert value == pytest.approx(values[token], rel=1e-3)
            exact = "".join(reading.store.pieces(first, first + len(pieces)))
            assert "".join(vocabulary[i] for i in pieces) == exact
            activations = np.zeros(len(pieces))
            activations[sparse[::2]] = sparse[1::2]
            np.testing.assert_allclose(activations, values[first : first + len(pieces)], rtol=1e-3)
            masked = example[6] if len(example) > 6 else []
            assert masked == np.flatnonzero(~reading.store.kept[first : first + len(pieces)]).tolist()
            shown += 1
    assert shown > 1000


def test_the_hostile_text_is_among_the_examples_to_the_letter(site: Path) -> None:
    found = read_data(site, "texts/00000")
    assert "".join(found["vocabulary"][i] for i in found["pieces"]) == HOSTILE.replace("\ud800", "\ufffd")


def test_columns_are_the_stores_numbers_and_words_in_alphabetical_order(site: Path, reading: Reading) -> None:
    found = read_data(site, "table")
    stats = reading.store.stats
    assert found["columns"]["count"] == stats.count.tolist()
    density = np.asarray(stats.count) / reading.store.n_kept
    np.testing.assert_allclose(found["columns"]["density"], density, rtol=1e-3)
    dead = np.flatnonzero(np.asarray(stats.count) == 0)
    assert len(dead)
    assert all(found["columns"]["mean"][i] is None and found["columns"]["largest"][i] is None for i in dead)
    assert found["vocabulary"] == sorted(found["vocabulary"], key=lambda w: (w.strip().casefold(), w))
    width, items = found["lists"]["tokens"]["width"], found["lists"]["tokens"]["items"]
    assert len(items) == width * FEATURES
    strongest = int(reading.store.top_tokens(0, 1).tokens[0])
    assert reading.store.pieces(strongest, strongest + 1)[0].strip() in ("", found["vocabulary"][items[0]].strip())


def test_sections_of_a_feature_are_what_the_studies_found(site: Path, reading: Reading) -> None:
    similarity, together = reading.results["similarity"].arrays, reading.results["cooccurrence"].arrays
    effects, neurons = reading.results["logit_effect"].arrays, reading.results["neuron_correlation"].arrays
    cluster = reading.results["clusters"].arrays["cluster"]
    for feature in (0, 1, 35, FEATURES - 1):
        found, vocabulary = read_feature(site, feature, PER_FILE)
        assert [row[0] for row in found["neighbours"]] == similarity["neighbour"][feature].tolist()
        assert [row[2] for row in found["neighbours"]] == pytest.approx(
            similarity["neighbour_cosine"][feature], rel=1e-3
        )
        assert [row[0] for row in found["partners"]] == together["partner"][feature, :7].tolist()  # no -1
        promoted = [vocabulary[i] for i in found["logits"][0][0]]
        assert promoted == [chr(i) for i in effects["promoted"][feature]]
        assert found["logits"][1][1] == pytest.approx(effects["suppressed_logit"][feature], rel=1e-3)
        assert found["neuron"][:2] == [neurons["neuron_layer"][feature], neurons["neuron"][feature]]
        if cluster[feature] < 0:
            assert found["cluster"] is None
        else:
            others = [i for i in np.flatnonzero(cluster == cluster[feature]).tolist() if i != feature]
            assert found["cluster"][:2] == [cluster[feature], len(others) + 1]
            assert found["cluster"][2] == others[: Extent().members]


def test_every_study_and_every_figure_is_on_the_overview(site: Path, reading: Reading) -> None:
    text = read(pages(site)["index.html"]).text
    for words in ("Key figures", "Density", "Map", "Training", "Clusters", "Completeness", "Later study", "Downstream"):
        assert f"\n{words}\n" in text, words
    assert "7.2\n" in text
    assert "[6.912, 7.56]" in text
    assert "[U+202E]" in text  # of the hostile label, made visible
    assert f"{reading.store.n_tokens:,} of 121 texts" in text


def test_a_reading_with_nothing_but_a_store_still_makes_a_site(tmp_path: Path, reading: Reading) -> None:
    out = write_site(tmp_path / "bare", [Reading("bare", reading.store)], show_progress=False)
    assert sorted(pages(out)) == sorted(set(PAGES) - {"texts.html"})
    found, _ = read_feature(out, 3, PER_FILE)
    assert found["neighbours"] == found["partners"] == found["closest"] == []
    assert found["logits"] is found["cluster"] is found["neuron"] is None
    assert list(read_data(out, "table")["lists"]) == ["tokens"]
    assert not (out / "data" / "map.js").exists()
    page = pages(out)["index.html"]
    assert "Training" not in page
    assert "unsafe-eval" not in page  # no map: nothing to compile


def test_a_result_without_arrays_shows_what_it_has(tmp_path: Path, reading: Reading) -> None:
    results = {name: type(found).from_json(found.to_json()) for name, found in reading.results.items()}
    out = write_site(tmp_path / "plain", [Reading("plain", reading.store, results)], show_progress=False)
    assert "nearest pairs" in pages(out)["index.html"]


def test_the_same_reading_gives_the_same_bytes(tmp_path: Path, site: Path, reading: Reading) -> None:
    again = write_site(tmp_path / "again", [reading], show_progress=False)
    files = [p.relative_to(site) for p in site.rglob("*") if p.is_file() and "tensorboard" not in p.parts]
    assert len(files) > 15
    for name in files:
        assert (again / name).read_bytes() == (site / name).read_bytes(), name


def test_further_files_are_written_with_it(tmp_path: Path, reading: Reading) -> None:
    out = write_site(
        tmp_path / "report",
        [Reading("bare", reading.store)],
        also=lambda folder: (folder / "analysis.json").write_text("{}"),
        show_progress=False,
    )
    assert (out / "analysis.json").read_text() == "{}"
    assert "analysis.json" in json.loads((out / "report.json").read_text())["files"]


def test_mistakes_are_one_line(tmp_path: Path, reading: Reading) -> None:
    with pytest.raises(UserError, match="nothing to report"):
        write_site(tmp_path / "a", [])
    with pytest.raises(UserError, match="a name of its own"):
        write_site(tmp_path / "a", [reading, reading])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "other.txt").write_text("")
    with pytest.raises(UserError, match="no report"):
        write_site(tmp_path / "b", [reading], show_progress=False)


def test_without_the_extra_a_line_says_what_to_install(
    tmp_path: Path, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UserError, match=r"plotly: is not installed; .*pip install 'sae_lightning\[analysis\]'"):
        write_site(tmp_path / "a", [reading], show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_folders_are_named_after_saes_safely() -> None:
    names = ["a b", "A/B", "../..", "Zürich", "data", "日本", "x" * 200]
    found = folder_names(names)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,70}", slug) for slug in found.values())
    assert found["data"] != "data"


def test_colours_are_the_houses() -> None:
    rules = palette()
    assert "--ground: light-dark(#fff, #15181c);" in rules
    assert rules.count("light-dark(") == 15


def test_a_feature_that_fires_below_zero_has_a_histogram_of_all(tmp_path: Path) -> None:
    def dense(n: int) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)

    from tests.store.planted import planted_store

    store = planted_store(tmp_path, d_sae=4, dense=dense).store
    out = write_site(tmp_path / "report", [Reading("signed", store)], show_progress=False)
    found, _ = read_feature(out, 2, PER_FILE)
    values = store.column(2)[1]
    assert found["least"] == pytest.approx(float(values.min()), rel=1e-3)
    assert found["highest"] == pytest.approx(float(values.max()), rel=1e-3)
    assert found["most"] == pytest.approx(float(np.abs(values).max()), rel=1e-3)
    assert sum(found["bins"]) == found["count"]
    assert f"{store.nnz:,} not 0" in read(pages(out)["index.html"]).text


def test_cards_of_zeros_and_of_nothing_claim_no_scale(tmp_path: Path, reading: Reading) -> None:
    def one(name: str, n: int) -> Reading:
        zero, none = Estimate(0.0, 0.0, 0.0, n), Estimate(None, None, None, 0)
        results = {
            "density": Result({"dead": zero, "rare": zero, "dense_share": Estimate(1e-4, 0.0, 9e-4, n)}),
            "completeness": Result({"covered": none}, notes=("no store: why not",)),
        }
        return Reading(name, reading.store, results)

    for names in (["a"], ["a", "b"]):
        found = {card.metric: card for card in cards(gathered({name: one(name, 9) for name in names}))}
        assert "class=scale" not in found["dead"].picture + found["rare"].picture
        assert "<span>-" not in found["dense_share"].picture
        assert found["covered"].shown == "–"
        assert "no store: why not" in found["covered"].note
        out = write_site(tmp_path / "-".join(names), [one(name, 9) for name in names], show_progress=False)
        text = read(pages(out)["index.html"]).text
        assert "no store: why not" in text
        assert "9 tokens" in text


def test_readings_of_two_seeds_differ(tmp_path: Path) -> None:
    one, other = (example_reading(tmp_path, f"r{seed}", seed=seed, features=20) for seed in (3, 4))
    a, b = (write_site(tmp_path / r.name, [r], show_progress=False) for r in (one, other))
    assert (a / "data" / "table.js").read_bytes() != (b / "data" / "table.js").read_bytes()
