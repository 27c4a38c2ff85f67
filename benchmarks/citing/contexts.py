"""Contexts in which it is known what an answer rests on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

PROMPT = "Context: {context}\n\nQuery: {query}"
"""The default of `context-cite`."""

SOURCES = (
    "The harbour of the old town was built by merchants from the north more than three hundred .",
    "In the spring of 1954 a new company bought the land on both sides of the river .",
    "The first school of the island was opened in a small stone building near the church .",
    "Most of the people who live in the valley work in the steel works .",
    "The bridge was closed to all traffic after the great flood and was opened again six years later .",
    "Every summer a band from the capital plays in the park , and thousands of visitors come .",
    "The museum has a large collection of maps , most of which were drawn by officers .",
    "A fire destroyed the northern part of the city in 1871 , and was built anew .",
    "The lighthouse on the western cape was the last in the country that was still in use .",
    "During the war the castle was used as a hospital , and its garden was turned into a field .",
    "The railway to the coast was finished in the autumn , and the journey took four hours .",
    "The university was founded by a group of doctors who wanted to study the diseases .",
    "The local newspaper was printed in two languages until the end of the century .",
    "A statue of the general stands in front of the town hall , and children like it .",
    "The mountain was first climbed by three brothers in the winter of 1902 , without ropes .",
    "The river changed its course after the storm , and the mill on its left bank was lost .",
    "The market square is paved with red stone that was brought from a quarry on the other side .",
    "The theatre was closed for ten years and is now used by a company of young actors .",
    "The winter of 1963 was so cold that the whole bay was frozen and people walked over it .",
    "The airport was built on a field where the first pilot of the country had landed .",
)
"""Twenty sources of some twenty tokens each."""
QUESTION = "What is known of the town and the country around it ?"
ANSWER = (
    " The bridge was closed after the great flood and was opened again by the mayor .",
    " The museum has a large collection of maps that were drawn by officers of the navy .",
    " In the winter of 1963 people walked over the ice of the bay to the island .",
)
"""Three sentences."""

_FACTS = (
    ("The password of the north gate is {}.", "What is the password of the north gate?"),
    ("The captain of the Aurora is called {}.", "What is the captain of the Aurora called?"),
    ("The secret colour of the guild is {}.", "What is the secret colour of the guild?"),
    ("The winning horse was named {}.", "What was the winning horse named?"),
    ("The favourite fruit of the queen is the {}.", "What is the favourite fruit of the queen?"),
    ("The spy was hiding in the town of {}.", "In which town was the spy hiding?"),
    ("The doctor grew up in the country of {}.", "In which country did the doctor grow up?"),
    ("The new manager of the hotel is Mrs {}.", "Who is the new manager of the hotel?"),
    ("The name of the wrecked ship was {}.", "What was the name of the wrecked ship?"),
    ("The old violin was sold for {} pounds.", "For how many pounds was the old violin sold?"),
)
_ANSWERS = (
    ("falcon", "thunder", "marble", "sapphire", "walnut"),
    ("Marbeck", "Holloway", "Sanderson", "Petrov", "Lindgren"),
    ("turquoise", "scarlet", "violet", "orange", "silver"),
    ("Bramble", "Comet", "Shadow", "Pepper", "Lightning"),
    ("mango", "cherry", "pear", "peach", "banana"),
    ("Salzburg", "Oxford", "Geneva", "Toledo", "Bergen"),
    ("Norway", "Brazil", "Kenya", "Japan", "Portugal"),
    ("Whitaker", "Donovan", "Castillo", "Ferguson", "Nakamura"),
    ("Endeavour", "Columbia", "Neptune", "Victory", "Meridian"),
    ("720", "4500", "163", "9800", "275"),
)
_OTHERS = (
    "The weather in the valley was mild that spring.",
    "A new road was opened by the mayor in May.",
    "Most of the farmers grow wheat and barley.",
    "The library has many thousands of books.",
    "On Sundays the market is full of people.",
    "The old bell was repaired twice last year.",
    "Children like to swim in the lake in summer.",
    "A train leaves for the coast every morning.",
    "The museum shows paintings by local artists.",
    "The bakery sells bread, cakes and coffee.",
    "Two bridges cross the river near the mill.",
    "The school has a large garden with tall trees.",
    "In winter the streets are often covered with snow.",
    "The theatre is closed on Mondays and Tuesdays.",
    "Several families moved to the village after the war.",
    "The post office stands beside the town hall.",
    "Tourists come to see the ruins on the hill.",
    "The fishermen sell their catch in the early morning.",
    "A small stream runs behind the church.",
    "The choir practises every Thursday evening.",
)


@dataclass(frozen=True)
class Planted:
    """A question whose answer stands in one of its context's sentences, and its words nowhere else."""

    sentences: tuple[str, ...]
    question: str
    answer: str
    planted: int


def planted(size: int, seed: int = 0) -> Iterator[Planted]:
    """Fifty contexts of `size` sentences."""
    draw = random.Random(seed)
    for (fact, question), answers in zip(_FACTS, _ANSWERS, strict=True):
        for answer in answers:
            sentences, place = draw.sample(_OTHERS, size - 1), draw.randrange(size)
            sentences.insert(place, fact.format(answer))
            yield Planted(tuple(sentences), question, answer, place)
