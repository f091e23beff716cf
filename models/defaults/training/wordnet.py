"""WordNet's database as prose: definitions as people write them, kinds of things, examples."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.defaults.training.readers import read_text

ARTICLE_FIRST = re.compile(r"(an?|the|any|one|someone|something|all|some|each|every)\b", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Synset:
    part: str
    words: list[str]
    definition: str
    examples: list[str]
    hypernyms: list[str]  # the offsets of what this is a kind of
    instance: bool  # Paris, not city


def parse_synset(line: str) -> tuple[str, Synset]:
    fields, _, gloss = line.partition(" | ")
    offset, _, part, count, *rest = fields.split(" ")
    words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in rest[: 2 * int(count, 16) : 2]]
    relations = rest[2 * int(count, 16) + 1 :]
    hypernyms = [relations[i + 1] for i, mark in enumerate(relations[:-1]) if mark in {"@", "@i"}]
    definition = re.sub(r'(;\s*)?".*', "", gloss)
    definition = re.sub(r"^\(.*?\)\s*", "", definition).strip(" ;")
    examples = re.findall(r'"([^"]{15,})"', gloss)
    return offset, Synset(
        part=part,
        words=words,
        definition=definition,
        examples=examples,
        hypernyms=hypernyms,
        instance="@i" in relations,
    )


def with_article(noun: str) -> str:
    if not noun[:1].islower():
        return noun
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def define(synset: Synset, draw: random.Random) -> str:
    """The definition as a sentence, in one of the ways in which people write definitions."""
    word, definition = synset.words[0], synset.definition
    first = definition.split(";")[0]
    if synset.part == "n" and ARTICLE_FIRST.match(first):
        form = draw.choice(["{a} is {d}", "{w} is {d}", "{w}: {d}", "{a} is {d}"])
        form = "{w} is {d}" if synset.instance else form
        died = re.search(r"\(.*\d{3,4}\)", definition)
        form = "{w} was {d}" if synset.instance and died else form
    elif synset.part == "v":
        form = draw.choice(["to {w} is to {d}", "to {w} means to {d}", "{w}: {d}"])
    else:
        form = draw.choice(["{w}: {d}", "{w} means {d}"])
    return sentence(form.format(w=word, a=with_article(word), d=definition))


def describe(synset: Synset, names: dict[str, str], draw: random.Random) -> str:
    parts = [define(synset, draw)]
    if len(synset.words) > 1 and draw.random() < 0.5:
        parts.append(sentence(f"{synset.words[0]} is also called {' or '.join(synset.words[1:3])}"))
    kind = names.get(synset.hypernyms[0]) if synset.hypernyms else None
    if kind and draw.random() < 0.5:
        subject = synset.words[0] if synset.instance or synset.part == "v" else with_article(synset.words[0])
        kind = with_article(kind) if synset.instance else f"a kind of {kind}"
        parts.append(sentence(f"{subject} is {kind}"))
    return " ".join(parts + [sentence(example) for example in synset.examples])


def wordnet(path: Path) -> Iterator[str]:
    """One part of speech of WordNet's database, a synset a document."""
    draw = random.Random(path.name)
    synsets = dict(parse_synset(line) for line in read_text(path).splitlines() if not line.startswith("  "))
    names = {offset: synset.words[0] for offset, synset in synsets.items()}
    for synset in synsets.values():
        yield describe(synset, names, draw)
