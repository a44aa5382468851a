"""How good is the embedded SmolLM2 as a judge? Forty easy questions with a known answer, asked as detection asks them.

python experiments/judge/judge.py [--model NAME]
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch

from sae_lightning.core import derive_seed
from sae_lightning.studies.autointerp.clients.client import Request
from sae_lightning.studies.autointerp.clients.local import LocalClient
from sae_lightning.studies.autointerp.prompts import DETECT_ASK, DETECT_SYSTEM, judge_messages
from sae_lightning.studies.shares import share_interval

# (description, a text that fits, a text that does not)
PAIRS = [
    ("names of countries", "He flew from France to Brazil on Monday.", "She tied her shoes and left the room."),
    ("words for colours", "The door was red and the walls were yellow.", "The meeting starts in an hour."),
    ("numbers", "They sold 250 tickets and 14 programmes.", "They walked slowly home in silence."),
    ("names of animals", "A dog chased the cat around the yard.", "The bank raised its interest rate again."),
    ("food and drink", "We had soup, bread and a glass of wine.", "The engine stopped in the tunnel."),
    ("names of months", "The trial begins in March and ends in July.", "The trial is about a stolen car."),
    ("weather", "Heavy rain and strong wind hit the coast.", "The museum bought two paintings."),
    ("parts of the body", "He hurt his knee and broke a finger.", "The law was passed without debate."),
    ("sports", "The team won the football match in extra time.", "The recipe needs two onions."),
    ("money and prices", "The house was sold for 300,000 dollars.", "The house stands behind tall trees."),
    ("questions", "Where did you put the keys?", "I put the keys on the table."),
    ("diseases", "Doctors saw more cases of measles and flu.", "Children played in the park all day."),
    ("musical instruments", "She plays the violin and the piano.", "She drives a bus in the city."),
    ("religion", "The priest prayed in the church.", "The mechanic changed the tyres."),
    ("computers and software", "The laptop crashed after the update.", "The horse jumped over the fence."),
    ("family members", "My mother and my brother came to visit.", "The company closed its factory."),
    ("crime and police", "Police arrested the thief after the robbery.", "The roses bloomed early this spring."),
    ("elections and voting", "Voters cast their ballots for the new mayor.", "The chef added salt to the pan."),
    ("oceans, rivers and lakes", "The boat crossed the lake and entered the river.", "The phone rang twice."),
    ("days of the week", "The shop is closed on Sunday and Monday.", "The shop sells old books."),
]


def questions() -> tuple[list[Request], np.ndarray]:
    """Return all questions and which of them are to be answered yes."""
    asked, truth = [], []
    for description, fits, other in PAIRS:
        for text, fitting in ((fits, True), (other, False)):
            asked.append(Request(judge_messages(DETECT_SYSTEM, DETECT_ASK, description, text), 4, ("yes", "no")))
            truth.append(fitting)
    return asked, np.array(truth)


def matched(client: LocalClient) -> dict[str, Any]:
    """Ask what is in each text, all descriptions to choose from, instead of yes or no.

    How likely a description is has more to do with its words than with the text, so its mean over the texts is taken
    off its log-probability.
    """
    names = tuple(pair[0] for pair in PAIRS)
    texts = [text for pair in PAIRS for text in pair[1:]]
    ask = "What is in this text? Answer with a few words."
    answers = client.ask([Request((("user", f"Text: {text}\n\n{ask}"),), 12, names) for text in texts])
    raw = np.log(np.array([[(answer.probabilities or {})[name] for name in names] for answer in answers]))
    level = raw - raw.mean(0)
    level -= level.mean(1, keepdims=True)
    own = np.stack([level[0::2].diagonal(), level[1::2].diagonal()], 1)  # of each description: fitting, other text
    truth = np.tile([True, False], len(PAIRS))
    draws = np.random.default_rng(derive_seed(0, "judge", "matched")).integers(0, len(PAIRS), (2000, len(PAIRS)))
    right, chosen = np.arange(len(PAIRS)), level[0::2].argmax(1)
    found = int((chosen == right).sum())
    return {
        "auc": auc(own.ravel(), truth),
        "auc_interval": np.percentile([auc(own[draw].ravel(), truth) for draw in draws], [2.5, 97.5]).round(3).tolist(),
        "right_of_20_descriptions": [found / len(PAIRS), *share_interval(found, len(PAIRS))],
        "right_without_taking_means_off": float((raw[0::2].argmax(1) == right).mean()),
    }


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return how often a fitting text scores above one that does not fit; ties count half."""
    a, b = scores[truth][:, None], scores[~truth][None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def speed(client: LocalClient, n: int, shared: float) -> dict[str, float]:
    """Return prompts a second and tokens a prompt, of ``n`` questions of about 200 tokens that begin alike."""
    rng = np.random.default_rng(derive_seed(0, "judge", "speed"))
    words = " ".join(pair[1] for pair in PAIRS).split()
    start = " ".join(rng.choice(words, int(110 * shared)))
    ends = [" ".join(rng.choice(words, 110 - int(110 * shared))) for _ in range(n)]
    asked = [Request(judge_messages(DETECT_SYSTEM, DETECT_ASK, start, end), 4, ("yes", "no")) for end in ends]
    begun, busy = time.perf_counter(), time.process_time()
    answers = client.ask(asked)
    busy, begun = time.process_time() - busy, time.perf_counter() - begun
    return {
        "prompts_per_second": round(n / begun, 2),
        "prompts_per_second_of_cpu": round(n / busy, 2),
        "tokens_per_prompt": round(sum(a.prompt_tokens for a in answers) / n, 1),
    }


def main() -> None:
    """Print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    arguments = parser.parse_args()
    client = LocalClient(arguments.model)
    asked, truth = questions()
    answers = client.ask(asked)
    yes = np.array([(answer.probabilities or {}).get("yes", np.nan) for answer in answers])
    right = int(((yes > 0.5) == truth).sum())
    share = share_interval(right, len(truth))
    draws = np.random.default_rng(derive_seed(0, "judge", "draws")).integers(0, len(PAIRS), (2000, len(PAIRS)))
    pairs = yes.reshape(-1, 2)
    aucs = [auc(pairs[draw].ravel(), truth) for draw in draws]
    within = float((pairs[:, 0] > pairs[:, 1]).mean())
    exact = LocalClient(arguments.model, dtype="float32")
    wide = np.array([(answer.probabilities or {}).get("yes", np.nan) for answer in exact.ask(asked)])
    alone = np.array([(client.ask([one])[0].probabilities or {}).get("yes", np.nan) for one in asked[:10]])
    said = {
        "client": client.name,
        "right": right,
        "of": len(truth),
        "share_and_interval": [right / len(truth), *share],
        "said_yes": int((yes > 0.5).sum()),
        "auc": auc(yes, truth),
        "auc_interval": np.percentile(aucs, [2.5, 97.5]).round(3).tolist(),
        "fitting_text_above_the_other_of_its_pair": within,
        "mean_yes_if_fitting": float(yes[truth].mean()),
        "mean_yes_if_not": float(yes[~truth].mean()),
        "choosing_a_description": matched(client),
        "largest_difference_to_float32": float(np.abs(wide - yes).max()),
        "largest_difference_to_asked_alone": float(np.abs(alone - yes[:10]).max()),
        "speed_nothing_shared_but_the_system": speed(client, 24, 0.0),
        "speed_two_thirds_shared": speed(client, 24, 0.67),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(said, indent=2))


if __name__ == "__main__":
    main()
