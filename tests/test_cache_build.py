"""Building through the command: what training with the same settings then reads."""

from sae_lightning.activations.cache import catalogue


def test_a_build_is_what_list_and_a_second_build_find(command, tiny_run, tmp_path):
    root = tmp_path / "kept"
    arguments = [
        *tiny_run,
        "data.cache=auto",
        f"data.cache_dir={root}",
        "sites.read=[blocks.0.hook_resid_post,blocks.1.hook_resid_post]",
    ]
    out = command("cache", *arguments)
    assert out.returncode == 0, out.stderr
    lines = out.stdout.strip().splitlines()
    assert len(lines) == 4, "two sites of the training and the held-out split"
    caches = {cache.address: cache for cache in catalogue(root)}
    assert {line.split(":")[0].rsplit("/", 1)[1] for line in lines} == set(caches)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("shard-*")}
    again = command("cache", *arguments)
    assert again.stdout == out.stdout
    assert {path: path.stat().st_mtime_ns for path in root.rglob("shard-*")} == before
    assert command("cache", "verify", "--dir", str(root)).returncode == 0


def test_too_small_a_budget_is_one_line(command, tiny_run, tmp_path):
    out = command(
        "cache", *tiny_run, "data.cache=auto", f"data.cache_dir={tmp_path / 'kept'}", "data.cache_max_gb=0.0001"
    )
    assert out.returncode == 2
    (line,) = [line for line in out.stderr.splitlines() if line.startswith("error: ")]
    assert "data.cache_max_gb=0.0001" in line
    assert "prune" in line


def test_a_folder_of_another_format_is_one_line(command, tiny_run, tmp_path):
    root = tmp_path / "kept"
    assert command("cache", *tiny_run, "data.cache=auto", f"data.cache_dir={root}").returncode == 0
    for manifest in root.rglob("manifest.json"):
        manifest.write_text(manifest.read_text().replace('"format": 1\n', '"format": 7\n'))
    out = command("cache", *tiny_run, "data.cache=auto", f"data.cache_dir={root}")
    assert out.returncode == 2
    (line,) = [line for line in out.stderr.splitlines() if line.startswith("error: ")]
    assert "of format 7, this version reads format 1" in line
