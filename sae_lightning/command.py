"""What every command shares: compose the config, turn mistakes into one line and exit code 2, set up logging."""

import errno
import logging
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_lightning.core.errors import UserError, nearest

EXIT_USER_ERROR = 2


def conf_dir() -> Path:
    """Return the folder of yaml files: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"conf/: no configuration beside {package}; reinstall sae_lightning")


def main(config_name: str, task: Callable[[DictConfig], Any]) -> None:
    """Run ``task`` with the composed config of ``config_name`` as a command.

    Mistakes of the user (an unknown key, a bad value, a missing file) end with one line on stderr and exit code 2;
    only our own faults show a traceback.
    """
    # Hydra's parser takes overrides on one side of a flag only; people write --multirun anywhere.
    flags = [a for a in sys.argv[1:] if a in ("-m", "--multirun")]
    sys.argv[1:] = [*flags[:1], *(a for a in sys.argv[1:] if a not in flags)]
    if flags:
        check_grid(sys.argv[2:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra then raises what went wrong instead of printing it and exiting with 1

    def guarded(config: DictConfig) -> Any:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            try:
                return task(config)
            except (HydraException, OmegaConfBaseException) as error:
                # The sweep goes on with its other jobs; hydra reports this one at the end.
                raise UserError(explain(error, config_name, list(HydraConfig.get().overrides.task))) from error
        try:
            return task(config)
        except UserError as error:
            fail(str(error))  # before hydra adds lines of its own
        except (HydraException, OmegaConfBaseException) as error:
            fail(explain(error, config_name, sys.argv[1:]))
        except OSError as error:
            fail_for_file(error)

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(guarded)()
    except UserError as error:
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, config_name, sys.argv[1:]))
    except OSError as error:
        fail_for_file(error)
    except (ValueError, TypeError) as error:
        if not (str(error).startswith("Config group override") or _of_hydras_groups(error)):
            raise
        groups = [a for a in sys.argv[1:] if "=" in a and a.split("=", 1)[0] in groups_of(config_name)]
        fail(f"{' '.join(groups)}: a group takes the name of one of its options; see --help")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None


def _of_hydras_groups(error: Exception) -> bool:
    """Tell whether hydra tripped over what was given for a group, as over a list inside a list."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).name == "defaults_list.py"


def key_of(override: str) -> str:
    """Return the key that an override sets, adds (+, ++) or removes (~)."""
    return override.lstrip("+~").split("=", 1)[0]


def check_grid(arguments: list[str]) -> None:
    """End with one line for a swept key without values: hydra would run nothing and say nothing."""
    parser = OverridesParser.create()
    for argument in arguments:
        try:
            override = parser.parse_override(argument)
            empty = override.is_discrete_sweep() and not list(override.sweep_string_iterator())
        except (HydraException, ValueError):
            continue  # hydra says it better
        if empty:
            fail(f"{argument}: an empty grid; give at least one value")


def fail_for_file(error: OSError) -> NoReturn:
    """End with one line for a path that cannot be used or a full disk; raise again what is neither."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has gone
        raise SystemExit(141) from None
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        full = f"{error.filename or 'a file'}: the disk is full"
        fail(f"{full}; free some space and start again (training goes on with resume=RUN)")
    if error.filename is None:
        raise error
    fail(f"{error.filename}: cannot be used ({error.strerror}); check the path, its permissions and free space")


def fail(message: str) -> NoReturn:
    """Print one line on stderr and exit with code 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201 - this is the command's own voice
    raise SystemExit(EXIT_USER_ERROR)


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    """Compose a config from Python, as the command line would."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(config_name, overrides)


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolve interpolations and return plain containers; a missing mandatory value is a UserError."""
    missing = dotted(OmegaConf.to_container(config, resolve=False), wanted="???")
    if missing:
        raise UserError(f"{missing[0]}: is needed and has no default; set {missing[0]}=...")
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def explain(error: Exception, config_name: str, arguments: list[str]) -> str:
    """Turn an error of hydra or omegaconf into one line that names the value, the rule and the remedy."""
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'\.\s*No match in the defaults list", text):
        groups = groups_of(config_name)  # hydra says this of a group that another command has
        return f"{found[1]}: unknown group{nearest(found[1], groups) or '; the groups are ' + ', '.join(groups)}"
    if found := re.search(r"Could not override '([^']+)'", text):
        hint = nearest_key(found[1], config_name, arguments) or "; see --help for the keys"
        return f"{found[1]}: unknown key{hint}"
    if found := re.search(r"Could not (?:find|load) '([^'/]+)/([^']+)'", text):
        options = sorted(p.stem for p in (conf_dir() / found[1]).glob("*.yaml"))
        return f"{found[1]}={found[2]}: unknown choice; {found[1]} is one of {', '.join(options)}"
    if found := re.search(r"full_key: (\S+)", text):
        return f"{found[1]}: {text.splitlines()[0]}; see --cfg job for the config"
    return text + "; see --help for the keys"


def groups_of(config_name: str) -> list[str]:
    """Return the groups that a command can choose from, those of the configs that its own begins with too."""
    entries = OmegaConf.select(OmegaConf.load(conf_dir() / f"{config_name}.yaml"), "defaults")
    names: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            names += groups_of(entry) if (conf_dir() / f"{entry}.yaml").is_file() else []
        else:
            names += [str(name) for name in entry]
    return [name for name in names if not name.startswith("override ")]


def nearest_key(key: str, config_name: str, arguments: list[str]) -> str:
    """Return a hint with the nearest known keys of the config that the valid part of the command line composes."""
    groups = groups_of(config_name)
    choices = [a for a in arguments if "=" in a and a.split("=", 1)[0] in groups and "," not in a]
    for overrides in (choices, []):
        try:
            known = dotted(OmegaConf.to_container(compose(config_name, overrides), resolve=False))
        except (HydraException, OmegaConfBaseException):
            continue
        if key in known:
            return f" here; add it with +{key}=..."
        tail = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
        if tail:
            return "; did you mean " + ", ".join(repr(k) for k in tail[:3]) + "?"
        return nearest(key, dict.fromkeys([*known, *groups]))
    return ""


def dotted(value: Any, prefix: str = "", wanted: str | None = None) -> list[str]:
    """Return the dotted keys of nested mappings, without ``_target_``; wanted: only leaves of this value."""
    if not isinstance(value, dict):
        return [prefix] if wanted in (None, value) else []
    keys = [prefix] if prefix and wanted is None else []
    for name, child in value.items():
        if not str(name).startswith("_"):
            keys += dotted(child, f"{prefix}.{name}" if prefix else str(name), wanted)
    return keys


def set_up_logging(log_file: Path | None = None) -> None:
    """Log to stderr (rich on a terminal, plain lines elsewhere) and, in full, to ``log_file``."""
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(file=sys.stderr)
    shown: logging.Handler
    if console.is_terminal:
        shown = RichHandler(console=console, show_path=False, log_time_format="[%X]", markup=False)
    else:
        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    shown.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [shown]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        written = logging.FileHandler(log_file, encoding="utf-8")
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        handlers.append(written)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("sae_lightning").setLevel(logging.DEBUG)


def say(text: str) -> None:
    """Print a command's result on stdout."""
    print(text)  # noqa: T201 - this is the command's own voice


def quiet_warnings() -> None:
    """Silence warnings of Lightning and others that a user of this package can do nothing about."""
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def in_use(folder: Path) -> bool:
    """Tell whether a folder holds anything that this command has not just begun: it is then not ours to remove."""
    return folder.exists() and any(path.name != "train.log" for path in folder.iterdir())


@contextmanager
def run_folder(folder: Path, *, keep: bool) -> Iterator[None]:
    """Make a run folder; remove it again when a user's mistake shows before anything was trained in it."""
    existed = keep or in_use(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except UserError:
        if not existed:
            logging.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
        raise
