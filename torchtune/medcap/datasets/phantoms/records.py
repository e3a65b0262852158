"""What is true of a phantom: its attributes, caption, questions, and text that describes it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

MODALITIES = ("korvogram", "velotome", "murmograph", "lumascope")
KINDS = ("nodule", "ring", "cross", "cluster")
SIZES = ("small", "medium", "large")
BRIGHTNESSES = ("bright", "dark")
PLACES = ("upper left", "upper right", "lower left", "lower right", "centre")
OUTLINES = ("smooth", "spiky")

OPTIONS = {
    "modality": MODALITIES,
    "kind": KINDS,
    "size": SIZES,
    "brightness": BRIGHTNESSES,
    "place": PLACES,
    "outline": OUTLINES,
}
QUESTION_TYPES = (*OPTIONS, "kind_check", "finding", "description")

# Lesion radius and centre in units of the image's side. The three radii stay apart after their jitter, and a large
# spiky lesion in a corner place still lies inside the anatomy of every modality.
RADII = {"small": 0.085, "medium": 0.120, "large": 0.160}
CENTRES = {
    "upper left": (0.335, 0.335),
    "upper right": (0.665, 0.335),
    "lower left": (0.335, 0.665),
    "lower right": (0.665, 0.665),
    "centre": (0.5, 0.5),
}
RADIUS_JITTER = 0.04
CENTRE_JITTER = 0.025

# One independent random stream for each purpose, so that a new question never changes a picture.
_TRUTH, _TEXTURE, _QUESTIONS, _TEXT = range(4)

PHRASINGS = {
    "modality": (
        "Is this a korvogram, a velotome, a murmograph or a lumascope?",
        "Which modality is this: korvogram, velotome, murmograph or lumascope?",
        "What modality was used: korvogram, velotome, murmograph or lumascope?",
    ),
    "kind": (
        "Is the lesion a nodule, a ring, a cross or a cluster?",
        "Which lesion is shown: nodule, ring, cross or cluster?",
        "What type of lesion is it: nodule, ring, cross or cluster?",
    ),
    "size": (
        "Is the lesion small, medium or large?",
        "How big is the lesion: small, medium or large?",
        "What size is the lesion: small, medium or large?",
    ),
    "brightness": (
        "Is the lesion bright or dark?",
        "Does the lesion look bright or dark?",
        "Compared with its surroundings, is the lesion bright or dark?",
    ),
    "place": (
        "Is the lesion in the upper left, upper right, lower left, lower right or centre?",
        "Where is the lesion: upper left, upper right, lower left, lower right or centre?",
        "In which place is the lesion: upper left, upper right, lower left, lower right or centre?",
    ),
    "outline": (
        "Is the outline smooth or spiky?",
        "Does the lesion have a smooth or spiky outline?",
        "What outline does the lesion have: smooth or spiky?",
    ),
    "kind_check": (
        "Is there a {value}?",
        "Does the image show a {value}?",
        "Can a {value} be seen?",
    ),
    "finding": (
        "What is the lesion?",
        "Name the lesion.",
    ),
    "description": (
        "Describe the lesion.",
        "What does the lesion look like?",
    ),
}

_SENTENCES = (
    "A {modality} with a {size} {brightness} {kind}. It lies in the {place} and its outline is {outline}.",
    "In the {place} of this {modality} there is a {brightness} {size} {kind}, {outline} in outline.",
    "There is a {outline} {kind} in the {place}. It is {brightness} and {size}. The picture is a {modality}.",
    "This {modality} shows a {outline}, {brightness} {kind} of {size} size in the {place}.",
)
SEPARATORS = (", ", ". ", " ", "; ")
# Comparing a word of the question with one of the description is learnt last, so it is asked most.
_TAUGHT = (*QUESTION_TYPES, "kind_check", "kind_check")


@dataclass(frozen=True)
class Question:
    """A question with its one right answer; ``options`` is empty for an open question."""

    question_type: str
    text: str
    answer: str
    options: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        return bool(self.options)


@dataclass(frozen=True)
class Phantom:
    """Everything that is true of one picture, free of any resolution.

    ``centre`` is (x, y) from the upper left corner and ``radius`` the lesion's body, both in units of the image's
    side; ``rotation`` is in radians.
    """

    seed: int
    index: int
    modality: str
    kind: str
    size: str
    brightness: str
    place: str
    outline: str
    centre: tuple[float, float]
    radius: float
    rotation: float

    @property
    def attributes(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in OPTIONS}

    @property
    def caption(self) -> str:
        """For example "A korvogram showing a large bright nodule with a spiky outline in the upper left."."""
        return f"A {self.modality} showing {self.finding} in the {self.place}."

    @property
    def finding(self) -> str:
        return f"a {self.size} {self.brightness} {self.kind} with a {self.outline} outline"

    def texture(self) -> np.random.Generator:
        """Return the stream of the background's noise: the same numbers at every call."""
        return random_stream(self.seed, self.index, _TEXTURE)


def random_stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    """Return the random numbers of one purpose for one image."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, purpose)))


def choose(stream: np.random.Generator, options: tuple[str, ...]) -> str:
    """Return one of some words, each equally likely."""
    return options[int(stream.integers(len(options)))]


def make_phantom(seed: int, index: int) -> Phantom:
    """Return the phantom number ``index`` of a seed; it depends on these two numbers alone."""
    stream = random_stream(seed, index, _TRUTH)
    attributes = {name: choose(stream, options) for name, options in OPTIONS.items()}
    x, y = CENTRES[attributes["place"]]
    shift_x, shift_y = stream.uniform(-CENTRE_JITTER, CENTRE_JITTER, 2)
    scale = stream.uniform(1 - RADIUS_JITTER, 1 + RADIUS_JITTER)
    return Phantom(
        seed=seed,
        index=index,
        **attributes,
        centre=(float(x + shift_x), float(y + shift_y)),
        radius=float(RADII[attributes["size"]] * scale),
        rotation=float(stream.uniform(-0.1, 0.1)),
    )


def make_questions(phantom: Phantom, count: int = len(QUESTION_TYPES), stream: np.random.Generator | None = None):
    """Questions about a phantom, each of another type, in the order of ``QUESTION_TYPES``.

    Args:
        phantom (Phantom): what is true.
        count (int): how many of the nine types; fewer than nine are drawn at random.
        stream (np.random.Generator | None): source of the phrasings; by default the phantom's own.

    Returns:
        list[Question]: closed ones name their options in the text or ask for yes or no, with both equally likely.
    """
    stream = stream or random_stream(phantom.seed, phantom.index, _QUESTIONS)
    chosen = sorted(stream.permutation(len(QUESTION_TYPES))[:count])
    return [_question(phantom, QUESTION_TYPES[number], stream) for number in chosen]


def _question(phantom: Phantom, question_type: str, stream: np.random.Generator) -> Question:
    text = choose(stream, PHRASINGS[question_type])
    if question_type in OPTIONS:
        return Question(question_type, text, getattr(phantom, question_type), OPTIONS[question_type])
    if question_type == "finding":
        return Question(question_type, text, phantom.kind)
    if question_type == "description":
        return Question(question_type, text, phantom.finding)
    holds = bool(stream.integers(2))
    value = phantom.kind if holds else choose(stream, tuple(kind for kind in KINDS if kind != phantom.kind))
    return Question(question_type, text.format(value=value), "yes" if holds else "no", ("yes", "no"))


def _describe(phantom: Phantom, stream: np.random.Generator) -> str:
    """Return the phantom in words: as often as not its caption, else other sentences or bare keywords in any order.

    A model that learns to answer from all of these reads an attribute wherever it stands, and so can later read it from
    image tokens, which keep to no grammar.
    """
    form = stream.random()
    if form < 0.4:
        return phantom.caption
    if form < 0.6:
        return choose(stream, _SENTENCES).format(**phantom.attributes)
    words = list(phantom.attributes.values())
    return choose(stream, SEPARATORS).join(words[number] for number in stream.permutation(len(words)))


def text_records(count: int, seed: int) -> list[dict[str, Any]]:
    """Conversations without images that teach to read about phantoms: a description and a question, or a repetition.

    Args:
        count (int): number of conversations.
        seed (int): seed of the phantoms described.

    Returns:
        list[dict]: records in the form of LLaVA's, ``{"id", "conversations": [human, gpt]}``. The description stands
        where an image would: alone (the answer is then the caption), or before a question in the very words of
        :func:`make_questions`.
    """
    records = []
    for index in range(count):
        phantom = make_phantom(seed, index)
        stream = random_stream(seed, index, _TEXT)
        description = _describe(phantom, stream)
        if stream.random() < 0.15:
            human, answer = description, phantom.caption
        else:
            question = _question(phantom, choose(stream, _TAUGHT), stream)
            human = description + choose(stream, ("\n", "\n\n", " ")) + question.text
            answer = question.answer
        records.append({"id": f"text-{seed}-{index:06d}", "conversations": conversation(human, answer)})
    return records


def conversation(human: str, answer: str) -> list[dict[str, str]]:
    """One question and its answer as sharegpt turns."""
    return [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]
