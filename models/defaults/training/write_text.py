"""Has a running server write training text: encyclopedia entries, stories, letters, recipes.

    triptych serve &
    python -m models.defaults.training.write_text unpacked/smollm2.txt --documents 2000

Each document is one seeded request, so the same command writes the same text. Lines are appended; a second
run with another `--first-seed` adds to the first. What comes out is raw: `prepare_text.py` picks what is
worth reading (`written.py`).
"""

from __future__ import annotations

import argparse
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import httpx

FORMS = (
    "Write a short encyclopedia entry about {}.",
    "Explain {} to a child in simple words.",
    "Write a short story in which {} matters.",
    "Write a letter to a friend about {}.",
    "Write a news report about {}.",
    "Write a conversation between two people about {}.",
    "List ten facts about {}, each in a full sentence.",
    "Write a diary entry about {}.",
    "What is the history of {}?",
    "Describe a day at work of somebody who deals with {}.",
)
TOPICS = """
France; Germany; Italy; Spain; Greece; Poland; Russia; China; Japan; India; Egypt; Kenya; Nigeria; Brazil;
Mexico; Canada; Australia; Turkey; Sweden; the Netherlands; Paris; London; Rome; Berlin; Tokyo; Cairo; New
York; the Alps; the Amazon; the Sahara; the Pacific Ocean; the Moon; the Sun; Mars; Jupiter; stars; gravity;
light; electricity; water; weather; rain; snow; volcanoes; earthquakes; rivers; forests; deserts; mountains;
islands; dogs; cats; horses; cows; sheep; bees; birds; eagles; whales; sharks; lions; elephants; bears;
wolves; mice; snakes; frogs; trees; roses; wheat; rice; bread; cheese; coffee; tea; chocolate; apples; soup;
a birthday cake; pasta; salad; breakfast; a garden; a farm; a kitchen; a school; a library; a hospital; a
museum; a theatre; a bank; a market; a factory; a harbour; an airport; a railway station; the post office;
bridges; ships; trains; cars; bicycles; aeroplanes; clocks; computers; telephones; the internet; printing;
paper; glass; iron; gold; coal; oil; the heart; the brain; blood; teeth; sleep; dreams; medicine; vaccines;
doctors; nurses; teachers; lawyers; judges; soldiers; sailors; farmers; painters; poets; musicians;
football; tennis; chess; swimming; running; holidays; weddings; funerals; birthdays; Christmas; money;
taxes; trade; elections; the president of the United States; parliaments; kings and queens; democracy; war;
peace; the Roman Empire; ancient Greece; the Middle Ages; the Renaissance; the French Revolution; the Second
World War; Shakespeare; Mozart; Einstein; Newton; Darwin; Leonardo da Vinci; mathematics; physics;
chemistry; biology; language; books; music; painting; dancing; cinema; newspapers; friendship; love; fear;
courage; honesty; luck; time; memory
"""


def write(server: str, seed: int, client: httpx.Client) -> str:
    """One document: form, topic and text follow from the seed."""
    draw = random.Random(seed)
    topic = draw.choice(TOPICS.replace("\n", " ").split("; ")).strip()
    body = {
        "messages": [{"role": "user", "content": draw.choice(FORMS).format(topic)}],
        "max_tokens": 300,
        "temperature": 0.8,
        "top_p": 0.95,
        "seed": seed,
    }
    response = client.post(f"{server}/v1/chat/completions", json=body, timeout=600)
    response.raise_for_status()
    return on_one_line(response.json()["choices"][0]["message"]["content"])


def on_one_line(text: str) -> str:
    """Without Markdown's marks, and without a last sentence that was cut off."""
    text = re.sub(r"[*#_`]+|^\s*(\d+\.|-)\s", "", text, flags=re.M)
    text = re.sub(r"\s+", " ", text).strip()
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1]


def write_all(server: str, seeds: range, concurrency: int, file: TextIO) -> None:
    limits = httpx.Limits(max_connections=concurrency)
    with httpx.Client(limits=limits) as client, ThreadPoolExecutor(concurrency) as writers:
        for text in writers.map(lambda seed: write(server, seed, client), seeds):
            print(text, file=file, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=Path, help="the file to append to")
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=32)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.documents)
    with options.text.open("a", encoding="utf-8") as file:
        write_all(options.server, seeds, options.concurrency, file)


if __name__ == "__main__":
    main()
