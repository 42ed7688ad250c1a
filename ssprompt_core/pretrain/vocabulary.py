"""The words with which pretraining asks for a class: names for some classes, codes for all."""

from __future__ import annotations

import numpy as np

from ssprompt_core.data.domains import UPSTREAM

COMMON: dict[str, tuple[str, ...]] = {
    "water": ("water", "river", "sea"),
    "grass": ("grass", "lawn"),
    "disc": ("disc", "circle", "round plate"),
    "square": ("square", "block", "cube"),
    "triangle": ("triangle", "pyramid", "cone"),
    "star": ("star", "asterisk"),
    "cross": ("cross", "crossing bars"),
    "diamond": ("diamond", "rhombus", "kite"),
    "bar": ("bar", "stick", "rod"),
}
"""Names of the nine classes that have any: seven things and two stuff."""

RARE: dict[str, str] = {
    "water": "lake",
    "grass": "meadow",
    "disc": "ball",
    "square": "box",
    "triangle": "wedge",
}
"""Synonyms that are used seldom, for stuff more seldom than for things."""

_TEMPLATES = ("{}", "a {}", "the {}", "a photo of a {}", "some {}")
_NAMED, _RARE_THING, _RARE_STUFF = 0.7, 0.08, 0.03


def word_for(class_index: int, rng: np.random.Generator) -> str:
    """A random text that asks for an upstream class.

    Classes without a name, and named ones at times, are asked for by a meaningless code. So the
    decoder learns to take its class from whatever token it is given, which is what learned
    prompts build on.
    """
    name = UPSTREAM.class_names[class_index]
    if name in COMMON and rng.random() < _NAMED:
        rare_share = _RARE_THING if class_index >= len(UPSTREAM.stuff) else _RARE_STUFF
        rare = name in RARE and rng.random() < rare_share
        word = RARE[name] if rare else str(rng.choice(COMMON[name]))
        if rng.random() < 0.5:
            return _TEMPLATES[rng.integers(len(_TEMPLATES))].format(word)
        return word
    return f"code{class_index * 7919 % 1000:03d}{'abc'[rng.integers(3)]}"
