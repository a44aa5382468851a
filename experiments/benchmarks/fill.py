"""Put measured pages into README.md beside this file.

    python -m experiments.benchmarks.fill outputs/bench/cpu --as cpu
    python -m experiments.benchmarks.fill outputs/bench/gpu --as gpu

Each page NAME.md of the folder replaces what stands between ``<!-- cpu/NAME -->`` and ``<!-- end -->``; a page without
a place is named and left out.
"""

import argparse
import re
from pathlib import Path

README = Path(__file__).with_name("README.md")


def filled(text: str, name: str, page: str) -> str | None:
    """Return the text with a page in its place, or None where it has none."""
    place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(text):
        return None
    return place.sub(lambda found: f"{found[1]}\n{page.strip()}\n\n{found[2]}", text)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--as", dest="machine", required=True, help="cpu or gpu: the first half of the place's name")
    a = p.parse_args()
    pages = sorted(a.folder.glob("*.md"))
    if not pages:
        p.error(f"{a.folder}: has no pages (*.md); run a benchmark with --out {a.folder} first")
    text = README.read_text(encoding="utf-8")
    for page in pages:
        new = filled(text, f"{a.machine}/{page.stem}", page.read_text(encoding="utf-8"))
        print(f"{a.machine}/{page.stem}: {'has no place in README.md' if new is None else 'filled in'}")
        text = new or text
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
