"""The pages' frames, from templates, and what lies beside them: style, scripts, Plotly."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lightning.core import UserError
from sae_lightning.reports import evaluation_figures, page
from sae_lightning.reports.site.escape import safe_link, script_json, visible

if TYPE_CHECKING:
    from jinja2 import Environment

# Scripts, styles and pictures from the report's own folder, and nothing from anywhere else: no page reaches a network,
# and text that came through every other guard would still not run.
_POLICY = (
    "default-src 'none'; script-src 'self' file:{}; style-src 'self' file: 'unsafe-inline'; img-src data: blob:; "
    "form-action 'self' file:; base-uri 'none'"
)
#: The policy of every page but those with a map.
STRICT = _POLICY.format("")
#: Of a page with a map: Plotly compiles the shaders of many points.
COMPILING = _POLICY.format(" 'unsafe-eval'")
#: Scripts of an overview, in their order.
OVERVIEW = ("core", "tokens", "index", "charts", "map", "overview")
_HERE = Path(__file__).parent
_REMEDY = "the report needs it; pip install 'sae_lightning[analysis]'"


@cache
def environment() -> "Environment":
    """Return the templates' environment: everything that is put into a page is escaped."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise UserError(f"jinja2: is not installed; {_REMEDY}") from None
    found = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["visible"] = visible
    found.filters["link"] = safe_link
    found.filters["in_script"] = script_json
    return found


def write_page(folder: Path, name: str, template: str, context: dict[str, Any]) -> None:
    """Write a page. What a UTF-8 file can't hold (half a character) has become visible before."""
    text = environment().get_template(f"{template}.html.j2").render(context)
    (folder / name).write_text(text, encoding="utf-8")


def write_assets(folder: Path) -> None:
    """Write style, scripts and Plotly's own bundle into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((_HERE / "assets").glob("*.js")):
        (folder / path.name).write_bytes(path.read_bytes())
    style = [
        palette(),
        *((_HERE / "assets" / f"{name}.css").read_text("utf-8") for name in ("site", "feature", "table")),
    ]
    (folder / "site.css").write_text("\n".join([*style, evaluation_figures.STYLE]), encoding="utf-8")
    (folder / "plotly.min.js").write_text(plotly_script(), encoding="utf-8")


def plotly_script() -> str:
    """Return the source of Plotly's browser library, as its Python package brings it."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError(f"plotly: is not installed; {_REMEDY}") from None
    return str(get_plotlyjs())


def palette() -> str:
    """Return the house's colours as rules that hold light and dark at once, so that a page can change between them."""
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", block))
        for block in re.findall(r":root \{([^}]*)\}", page.STYLE)[:2]
    )
    colours = " ".join(f"--{name}: light-dark({value}, {dark.get(name, value)});" for name, value in light.items())
    return f":root {{ {colours} }}"


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """Return a folder's name for each of several SAEs: readable, safe, and different from one another."""
    found: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        base = re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._")[:60] or "sae"
        base = f"{base}-sae" if base in ("assets", "data", "tensorboard") else base
        taken, number, slug = set(found.values()), 2, base
        while slug in taken:
            slug, number = f"{base}-{number}", number + 1
        found[name] = slug
    return found


def identity(*parts: Any) -> str:
    """Return a short name for what a report is about: notes kept in a browser stay with it when it is written anew."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
