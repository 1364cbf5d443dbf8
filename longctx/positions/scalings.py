"""RoPE scalings: one frozen class each, its numbers as fields. To add one: a class, a line in SCALINGS.

A scaling gives the inverse frequencies of the pairs that rotate, in radians per token, and a factor on cos and sin.
They are computed in float64 with numpy at trace time: constants of the program. In the formulas d is the number of
dimensions that rotate, b = theta, theta_i = b^(-2i/d), lambda_i = 2 pi / theta_i the wavelength in tokens, L =
original_length and s = factor = target length / L.

Where a run sets the numbers: RopeConfig has a field for each number of the published scalings, so that a command line,
a stage or config.json can set one of them alone (model.rope.scaling=yarn model.rope.factor=8). A number that RopeConfig
has no field for is written in parentheses behind the name (model.rope.scaling=toy(3)), as position methods have theirs.
So each number has exactly one place, and a new scaling needs no new setting. Free of jax.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float64

from longctx.config import RopeConfig
from longctx.parsing import parse_call

Frequencies = tuple[Float64[np.ndarray, " pairs"], float]  # inverse frequencies; what multiplies cos and sin
SETTINGS = frozenset(field.name for field in dataclasses.fields(RopeConfig))


class Rotation(NamedTuple):
    """RoPE without a scaling: theta, and the fraction of a head's dimensions that rotate."""

    theta: float
    head_dim: int
    fraction: float = 1.0

    @property
    def size(self) -> int:
        """The number of dimensions that rotate, as GPT-NeoX and StableLM count them."""
        return int(self.fraction * self.head_dim)

    def frequencies(self, stretch: float = 1.0) -> np.ndarray:
        """theta_i [d / 2], of the base b * stretch^(d / (d - 2)), which divides the slowest frequency by `stretch`."""
        return powers(self.base(stretch), self.size)

    def base(self, stretch: float) -> float:
        """b * stretch^(d / (d - 2)); b itself where nothing is stretched."""
        return self.theta if stretch == 1.0 else self.theta * stretch ** (self.size / (self.size - 2))


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Base of the scalings. Frozen and hashable; the fields are numbers, those without a default must be given.

    Attributes:
      by_length: whether the frequencies depend on the length of a row; they change for all its tokens then.
      learned: whether the model has the weights of longctx/model/clex.py, which change the frequencies.
      shortest: the smallest original_length that the formula takes, of scalings that have that field.
      least_size: the fewest dimensions that it rotates, if any rotate at all.
      whole_head: whether it sees all dimensions of a head, whatever the fraction that rotates; it may be odd then.
      rope_types: its names in config.json of Hugging Face, the one that is written first; () where it has none. All
        its numbers are fields of RopeConfig then; hf/rope.py has their names and types there.
      implied: numbers that config.json may leave to max_position_embeddings.
      unwritten: numbers that config.json never holds, for max_position_embeddings says them.
    """

    by_length = False
    learned = False
    shortest = 1
    least_size = 0
    whole_head = False
    rope_types: ClassVar[tuple[str, ...]] = ()
    implied: ClassVar[tuple[str, ...]] = ()
    unwritten: ClassVar[tuple[str, ...]] = ()

    def frequencies(self, rotation: Rotation, length: int) -> Frequencies:
        """Inverse frequencies and the factor on cos and sin, in rows of `length` tokens."""
        raise NotImplementedError

    def why_not(self, rotation: Rotation) -> str | None:
        """The reason why the numbers cannot work, which begins with the name of the wrong one; None when they do."""
        return None

    def equal_theta(self, rotation: Rotation) -> float | None:
        """The theta that gives the same frequencies without any scaling; None where no theta does."""
        return None

    @property
    def stretch(self) -> float:
        """Target length / original_length that the numbers are for."""
        return getattr(self, "factor", 1.0)


class Unscaled(Scaling):
    """theta_i itself. Changing theta alone is ABF (Effective Long-Context Scaling, arXiv 2309.16039)."""

    rope_types = ("default",)

    def frequencies(self, rotation, length):
        return rotation.frequencies(), 1.0

    def equal_theta(self, rotation):
        return rotation.theta


@dataclasses.dataclass(frozen=True)
class Linear(Scaling):
    """Position interpolation: theta_i / s (arXiv 2306.15595)."""

    factor: float
    rope_types = ("linear",)

    def frequencies(self, rotation, length):
        return rotation.frequencies() / self.factor, 1.0


@dataclasses.dataclass(frozen=True)
class Ntk(Scaling):
    """NTK-aware: b * s^(d/(d-2)), so that the slowest dimension is interpolated by s and the fastest untouched."""

    factor: float
    least_size = 4

    def frequencies(self, rotation, length):
        return rotation.frequencies(self.factor), 1.0

    def equal_theta(self, rotation):
        return rotation.base(self.factor)


@dataclasses.dataclass(frozen=True)
class Dynamic(Scaling):
    """Dynamic NTK: NTK-aware at s * length / L - (s - 1), plain up to L. For inference, without tuning.

    The stretch of a row comes from its length, not from s, so that the numbers are for rows of any length.
    """

    factor: float
    original_length: int
    by_length = True
    least_size = 4
    rope_types = ("dynamic",)
    unwritten = ("original_length",)

    @property
    def stretch(self):
        return 1.0

    def frequencies(self, rotation, length):
        grown = max(length, self.original_length) / self.original_length
        return rotation.frequencies(self.factor * grown - (self.factor - 1)), 1.0


@dataclasses.dataclass(frozen=True)
class Yarn(Scaling):
    """YaRN (arXiv 2309.00071): NTK-by-parts and a temperature.

    Dimensions that turn more than beta_fast times within L keep theta, those below beta_slow turns get theta / s, a
    linear ramp in between, over whole dimensions unless `truncate` is off (gpt-oss). cos and sin are multiplied by
    m(mscale) / m(mscale_all_dim), m(x) = 0.1 x ln s + 1 (DeepSeek's form), or by attention_factor unless it is 0.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    mscale: float = 1.0
    mscale_all_dim: float = 0.0
    attention_factor: float = 0.0
    rope_types = ("yarn",)
    implied = ("factor",)

    def frequencies(self, rotation, length):
        theta = rotation.frequencies()
        d = 2 * len(theta)
        low, high = self._dimension(rotation, d, self.beta_fast), self._dimension(rotation, d, self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, d - 1)
        ramp = np.clip((np.arange(d // 2) - low) / (high - low if high > low else 0.001), 0, 1)
        temperature = self.attention_factor or self._temperature(self.mscale) / self._temperature(self.mscale_all_dim)
        return theta * (1 - ramp) + theta / self.factor * ramp, temperature

    def _dimension(self, rotation: Rotation, d: int, turns: float) -> float:
        """The dimension, not a whole one, that turns so often within L."""
        once = math.log(self.original_length / (2 * math.pi))
        return d * (once - math.log(turns)) / (2 * math.log(rotation.theta))

    def _temperature(self, scale: float) -> float:
        return 0.1 * scale * math.log(max(self.factor, 1.0)) + 1.0

    def why_not(self, rotation):
        if not self.beta_fast > self.beta_slow > 0:
            return f"beta_fast={self.beta_fast} must exceed beta_slow={self.beta_slow}, above 0"
        return None


@dataclasses.dataclass(frozen=True)
class LongRope(Scaling):
    """LongRoPE (arXiv 2402.13753): theta_i / long_factors[i], short_factors[i] in rows no longer than L.

    cos and sin are multiplied by sqrt(1 + ln s / ln L), or by attention_factor unless it is 0.
    """

    factor: float
    original_length: int
    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    attention_factor: float = 0.0
    by_length = True
    shortest = 2
    rope_types = ("longrope", "su")
    implied = ("factor",)

    def frequencies(self, rotation, length):
        factors = self.long_factors if length > self.original_length else self.short_factors
        published = math.sqrt(1 + math.log(max(self.factor, 1.0)) / math.log(self.original_length))
        return rotation.frequencies() / np.array(factors), self.attention_factor or published

    def why_not(self, rotation):
        for name in ("short_factors", "long_factors"):
            factors, pairs = getattr(self, name), rotation.size // 2
            if len(factors) != pairs or min(factors, default=1) <= 0:
                return (
                    f"{name} holds {len(factors)} numbers, and must hold a positive one for each of the {pairs} pairs "
                    "of dimensions that rotate"
                )
        return None


@dataclasses.dataclass(frozen=True)
class Llama3(Scaling):
    """Llama 3.1: wavelengths above L / low_freq_factor are interpolated by s, those below L / high_freq_factor are
    kept, a smooth blend in between."""

    factor: float
    original_length: int
    low_freq_factor: float
    high_freq_factor: float
    rope_types = ("llama3",)

    def frequencies(self, rotation, length):
        theta = rotation.frequencies()
        turns = self.original_length * theta / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        # Llama 4 has low = high: there is nothing in between
        blend = np.clip((turns - low) / (high - low), 0, 1) if high > low else np.where(turns > high, 1.0, 0.0)
        return (1 - blend) * theta / self.factor + blend * theta, 1.0

    def why_not(self, rotation):
        if self.high_freq_factor < self.low_freq_factor:
            return f"high_freq_factor={self.high_freq_factor} must not be below low_freq_factor={self.low_freq_factor}"
        return None


@dataclasses.dataclass(frozen=True)
class Proportional(Scaling):
    """p-RoPE (arXiv 2410.06205, Gemma 4): the fastest rotary fraction of a head's theta_i, divided by s; 0 beyond.

    Unlike the other scalings', its pairs and its theta_i are those of the whole head.
    """

    factor: float = 1.0
    whole_head = True
    rope_types = ("proportional",)

    def frequencies(self, rotation, length):
        theta = powers(rotation.theta, rotation.head_dim) / self.factor
        kept = int(rotation.fraction * rotation.head_dim // 2)
        return np.where(np.arange(len(theta)) < kept, theta, 0.0), 1.0


@dataclasses.dataclass(frozen=True)
class Power(Scaling):
    """Giraffe's power basis (arXiv 2308.10882): theta_i (1 - 2i/d)^k with k = `power`."""

    power: float

    def frequencies(self, rotation, length):
        theta = rotation.frequencies()
        return theta * (1 - np.arange(len(theta)) / len(theta)) ** self.power, 1.0

    def why_not(self, rotation):
        if self.power <= 0:
            return f"power={self.power} must be positive for the power basis, e.g. 0.1"
        return None


@dataclasses.dataclass(frozen=True)
class Truncated(Scaling):
    """Giraffe's truncated basis: theta_i with lambda_i <= L are kept, <= 8 L become 2 pi / (16 L), others 0."""

    original_length: int

    def frequencies(self, rotation, length):
        theta, once = rotation.frequencies(), 2 * math.pi / self.original_length
        return np.where(theta >= once, theta, np.where(theta >= once / 8, once / 16, 0.0)), 1.0


@dataclasses.dataclass(frozen=True)
class Clex(Scaling):
    """CLEX (arXiv 2310.16450) before any training: NTK-aware at 2 t - 1. positions/clex.py has what is learned.

    t: how many times the trained length a row is, in whole numbers from 1 to `factor`. width: of the network that is
    learned, its hidden size over the dimensions that rotate.
    """

    factor: float
    original_length: int
    clex_width: int = 1
    by_length = True
    learned = True
    least_size = 4

    def frequencies(self, rotation, length):
        return self.start(rotation, self.times(length)), 1.0

    def times(self, length: int) -> int:
        """t of a row of `length` tokens."""
        return min(max(math.ceil(length / self.original_length), 1), int(self.factor))

    def start(self, rotation: Rotation, t: int) -> np.ndarray:
        """Frequencies at t times the trained length that learning starts from."""
        return rotation.frequencies(2 * t - 1)

    def why_not(self, rotation):
        if self.factor != int(self.factor) or self.clex_width < 1:
            return (
                f"factor={self.factor} and clex_width={self.clex_width} must be whole numbers from 1 on for CLEX: the "
                "largest t, and the width of its network"
            )
        return None


SCALINGS = {
    "none": Unscaled,
    "linear": Linear,
    "ntk": Ntk,
    "dynamic": Dynamic,
    "yarn": Yarn,
    "longrope": LongRope,
    "llama3": Llama3,
    "proportional": Proportional,
    "power": Power,
    "truncated": Truncated,
    "clex": Clex,
}


def of(config: RopeConfig, field: str = "model.rope") -> Scaling:
    """The scaling that a RopeConfig names, with its numbers. Raises UserError as `named` does."""
    kind, own = named(config.scaling, f"{field}.scaling")
    shared = {name: getattr(config, name) for name in numbers_of(kind) if name in SETTINGS}
    return kind(**shared | own)


def named(text: str, field: str = "model.rope.scaling") -> tuple[type[Scaling], dict[str, float]]:
    """The class that a setting such as "yarn" or "toy(3)" names, and the numbers in its parentheses.

    Raises:
      UserError: for an unknown name, or numbers that do not fit; `field` names the setting.
    """
    kind, values = parse_call(field, text, SCALINGS, besides=SETTINGS)
    own = [name for name in numbers_of(kind) if name not in SETTINGS]
    return kind, dict(zip(own, values, strict=False))


def numbers_of(kind: type[Scaling]) -> tuple[str, ...]:
    """The names of the numbers of a scaling."""
    return tuple(field.name for field in dataclasses.fields(kind))


def required(kind: type[Scaling]) -> tuple[str, ...]:
    """The names of the numbers that have no default."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING)


def reads(kind: type[Scaling]) -> tuple[str, ...]:
    """The fields of RopeConfig that a scaling reads, beside those that count with every scaling.

    original_length is one of the latter: it also says how long the rows of a model may be.
    """
    return tuple(name for name in numbers_of(kind) if name in SETTINGS and name != "original_length")


def powers(base: float, d: int) -> np.ndarray:
    """base^(-2i/d), float64 [d / 2], rounded up."""
    return base ** (-np.arange(0, d, 2, dtype=np.float64) / d)
