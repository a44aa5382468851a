"""What is loaded when: asking about a trained SAE does not wait for what trains one."""

import subprocess
import sys

import pytest

from sae_lightning import build, reports

ASKING = (
    "build.searching",
    "build.steering",
    "build.interpreting",
    "build.analysis",
    "build.evaluation",
    "build.indexing",
    "reports.search_page",
    "reports.search_table",
)


def test_asking_loads_no_lightning() -> None:
    imports = "; ".join(f"import sae_lightning.{name}" for name in ASKING)
    check = "import sys; print(sorted({'lightning', 'torchmetrics', 'transformers', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{imports}; {check}"], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("room", [build, reports], ids=lambda room: room.__name__)
def test_every_name_of_a_room_is_found(room: object) -> None:
    names = vars(room)["__all__"]
    assert sorted(names) == sorted(vars(room)["_HOME"])
    for name in names:
        assert getattr(room, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(room, "nothing")  # noqa: B009
