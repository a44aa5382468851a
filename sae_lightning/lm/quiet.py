"""Keeps the libraries below us from talking: their warnings and bars say nothing a user of ours can act on."""

import logging
import sys
import warnings


def quiet_libraries() -> None:
    """Let transformers and transformer_lens report errors only. Downloads from the hub keep their bar on a terminal."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"transformer_lens(\..*)?$")
    if not sys.stderr.isatty():
        disable_progress_bars()
