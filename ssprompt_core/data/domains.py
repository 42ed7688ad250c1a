"""The two procedural worlds: one a small SAM is pretrained on, and the shifted one of studies."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class StuffClass:
    """A class of background regions.

    Attributes:
        name: Class name.
        texture: Key of :data:`ssprompt_core.data.textures.TEXTURES`.
        hue: Mean hue in turns, [0, 1).
        hue_spread: Its standard deviation from region to region.
        saturation: Range in [0, 1].
        value: Range of brightness in [0, 1].
    """

    name: str
    texture: str
    hue: float
    hue_spread: float
    saturation: tuple[float, float]
    value: tuple[float, float]


@dataclass(frozen=True)
class ThingClass:
    """A class of countable objects: a shape and the hue it often has."""

    name: str
    shape: str
    hue: float


@dataclass(frozen=True, kw_only=True)
class SceneDomain:
    """What scenes of one world look like; lengths are pixels, probabilities lie in [0, 1].

    Attributes:
        name: Name of the world.
        salt: Separates its random numbers from those of other worlds.
        stuff: Background classes, the first class indices.
        things: Object classes, the indices after them.
        hue_link: Probability that a thing has its class's hue rather than any.
        hue_jitter: Standard deviation of one hue shift of a whole scene, in turns.
        recolour: Probability of an arbitrary hue shift of the whole scene instead.
        regions: Range of the number of background regions.
        thing_count: Range of the number of things asked for (overlaps are refused).
        radius: Range of a thing's radius.
        aspect: Range of a thing's stretch.
        thing_textures: Textures that things may have.
        texture_contrast: Range of the contrast of background textures.
        noise: Range of the standard deviation of pixel noise.
        illumination: Depth of uneven light.
        decoys: Probability that a region or thing belongs to no class and looks arbitrary; its
            label is 255. Teaches segmenting what has no name.
        decoy_textures: Textures of decoy regions.
        decoy_shapes: Shapes of decoy things.
    """

    name: str
    salt: int
    stuff: tuple[StuffClass, ...]
    things: tuple[ThingClass, ...]
    hue_link: float
    hue_jitter: float
    recolour: float
    regions: tuple[int, int]
    thing_count: tuple[int, int]
    radius: tuple[float, float]
    aspect: tuple[float, float]
    thing_textures: tuple[str, ...]
    texture_contrast: tuple[float, float]
    noise: tuple[float, float]
    illumination: float
    decoys: float
    decoy_textures: tuple[str, ...]
    decoy_shapes: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of stuff, then of things."""
        return tuple(s.name for s in self.stuff) + tuple(t.name for t in self.things)


UPSTREAM = SceneDomain(
    name="upstream",
    salt=11,
    stuff=(
        StuffClass("water", "waves", 0.58, 0.05, (0.4, 0.9), (0.35, 0.8)),
        StuffClass("grass", "blades", 0.30, 0.05, (0.4, 0.9), (0.3, 0.75)),
        StuffClass("sand", "grains", 0.12, 0.04, (0.2, 0.6), (0.55, 0.9)),
        StuffClass("wall", "bricks", 0.03, 0.04, (0.3, 0.8), (0.35, 0.75)),
        StuffClass("sky", "clouds", 0.60, 0.06, (0.05, 0.4), (0.6, 0.95)),
    ),
    things=(
        ThingClass("disc", "disc", 0.0),
        ThingClass("square", "square", 0.11),
        ThingClass("triangle", "triangle", 0.22),
        ThingClass("star", "star", 0.16),
        ThingClass("cross", "cross", 0.44),
        ThingClass("diamond", "diamond", 0.66),
        ThingClass("bar", "bar", 0.77),
        ThingClass("ring", "ring", 0.88),
        ThingClass("crescent", "crescent", 0.52),
    ),
    hue_link=0.8,
    hue_jitter=0.05,
    recolour=0.15,
    regions=(2, 4),
    thing_count=(2, 4),
    radius=(12, 26),
    aspect=(0.7, 1.4),
    thing_textures=("plain", "clouds", "stripes", "dots", "tiles", "blotches"),
    texture_contrast=(0.2, 0.5),
    noise=(0.0, 0.06),
    illumination=0.2,
    decoys=0.1,
    decoy_textures=("plain", "clouds", "grains", "blotches", "stripes", "tiles"),
    decoy_shapes=("flower", "snowman", "arrow"),
)
"""The world of pretraining: 5 stuff and 9 thing classes, and decoys."""

VARIED_UPSTREAM = replace(
    UPSTREAM, name="varied", hue_link=0.7, recolour=0.35, radius=(10, 24), decoys=0.2
)
"""The first stage of pretraining: more of what has no name, less to learn from hue."""

CROWDED_UPSTREAM = replace(UPSTREAM, name="crowded", thing_count=(3, 5), radius=(10, 24))
"""The second stage of pretraining: more and smaller things."""

WORLDS = {domain.name: domain for domain in (VARIED_UPSTREAM, CROWDED_UPSTREAM, UPSTREAM)}
"""Worlds that pretraining knows, by name."""

DOWNSTREAM = SceneDomain(
    name="downstream",
    salt=12,
    stuff=(
        StuffClass("lake", "ripples", 0.50, 0.05, (0.4, 0.9), (0.35, 0.8)),
        StuffClass("meadow", "hatch", 0.24, 0.05, (0.4, 0.9), (0.35, 0.8)),
        StuffClass("gravel", "speckle", 0.08, 0.04, (0.1, 0.4), (0.35, 0.75)),
        StuffClass("evening sky", "clouds", 0.85, 0.06, (0.15, 0.55), (0.5, 0.95)),
    ),
    things=(
        ThingClass("ball", "disc", 0.10),
        ThingClass("box", "square", 0.22),
        ThingClass("wedge", "triangle", 0.35),
        ThingClass("plus sign", "cross", 0.56),
        ThingClass("hoop", "ring", 0.97),
        ThingClass("moon", "crescent", 0.68),
    ),
    hue_link=0.85,
    hue_jitter=0.03,
    recolour=0.0,
    regions=(2, 3),
    thing_count=(2, 4),
    radius=(10, 22),
    aspect=(0.75, 1.35),
    thing_textures=("plain", "clouds", "hatch", "speckle", "stripes"),
    texture_contrast=(0.2, 0.5),
    noise=(0.01, 0.05),
    illumination=0.25,
    decoys=0.0,
    decoy_textures=("plain",),
    decoy_shapes=("flower",),
)
"""The world of studies: other textures, hues, proportions and words; six shapes in common."""
