"""Runs inside the peers' environment: ``run.py JOBS.json`` does each job with one library's own code.

A job: {"library", "action": "load" | "train", "folder", "kind", "rows": FILE.npy, "train": FILE.npy, "out": FILE.npz}.
load: the library's own loader takes ``folder``. train: its own trainer makes an SAE and its own save writes ``folder``,
from which its own loader takes it again. Either way ``out`` gets features and reconstructions of ``rows``, or what the
library said when it failed.
"""

import json
import sys
import traceback
from importlib import import_module
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    for job in jobs:
        library = import_module(f"{job['library']}_jobs")
        result = {}
        try:
            if job["action"] == "train":
                torch.manual_seed(0)
                library.train(job["kind"], torch.from_numpy(np.load(job["train"])), Path(job["folder"]))
            with torch.no_grad():
                features, output = library.forward(Path(job["folder"]), torch.from_numpy(np.load(job["rows"])))
            result = {"features": features.numpy(), "output": output.numpy()}
        except Exception:  # a library may raise anything; the test shows it
            result = {"error": np.array(traceback.format_exc())}
        np.savez(job["out"], **result)


main()
