"""RoPE scalings: each gives inverse frequencies (radians per token, one a rotating pair) and a factor on cos and sin.

Computed in float64 with numpy at trace time: they are constants of the program. d is the number of dimensions that
rotate, b = `theta`, theta_i = b^(-2i/d), lambda_i = 2 pi / theta_i the wavelength in tokens, L = `original_length`, s =
`factor` = target length / L. `length` is that of the row: a scaling that depends on it changes for all its tokens.
"""

import math

import numpy as np

from longctx.config import RopeConfig

Frequencies = tuple[np.ndarray, float]


def rotary_size(config: RopeConfig, head_dim: int) -> int:
    """How many dimensions of a head rotate, as GPT-NeoX and StableLM count them."""
    return int(config.rotary_fraction * head_dim)


def none(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """theta_i itself. Changing `theta` alone is ABF (Effective Long-Context Scaling, arXiv 2309.16039)."""
    return _theta(config, head_dim), 1.0


def linear(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """Position interpolation: theta_i / s (arXiv 2306.15595)."""
    return _theta(config, head_dim) / config.factor, 1.0


def ntk(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """NTK-aware: b * s^(d/(d-2)), so that the slowest dimension is interpolated by s and the fastest untouched."""
    return _stretched(config, head_dim, config.factor), 1.0


def dynamic(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """Dynamic NTK: NTK-aware at s * length / L - (s - 1), plain up to L. For inference, without tuning."""
    grown = max(length, config.original_length) / config.original_length
    return _stretched(config, head_dim, config.factor * grown - (config.factor - 1)), 1.0


def yarn(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """YaRN (arXiv 2309.00071): NTK-by-parts and a temperature.

    Dimensions that turn more than beta_fast times within L keep theta, those below beta_slow turns get theta / s, a
    linear ramp in between, over whole dimensions unless `truncate` is off (gpt-oss). cos and sin are multiplied by
    m(mscale) / m(mscale_all_dim), m(x) = 0.1 x ln s + 1 (DeepSeek's form), or by attention_factor where it is given.
    """
    theta = _theta(config, head_dim)
    d = 2 * len(theta)
    once = math.log(config.original_length / (2 * math.pi))
    turns_at = lambda turns: d * (once - math.log(turns)) / (2 * math.log(config.theta))
    low, high = turns_at(config.beta_fast), turns_at(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    ramp = np.clip((np.arange(d // 2) - low) / (high - low if high > low else 0.001), 0, 1)
    m = lambda scale: 0.1 * scale * math.log(max(config.factor, 1.0)) + 1.0
    temperature = config.attention_factor or m(config.mscale) / m(config.mscale_all_dim)
    return theta * (1 - ramp) + theta / config.factor * ramp, temperature


def longrope(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """LongRoPE (arXiv 2402.13753): theta_i / long_factors[i], short_factors[i] in rows no longer than L.

    cos and sin are multiplied by sqrt(1 + ln s / ln L), or by attention_factor where it is given.
    """
    factors = config.long_factors if length > config.original_length else config.short_factors
    published = math.sqrt(1 + math.log(max(config.factor, 1.0)) / math.log(config.original_length))
    return _theta(config, head_dim) / np.array(factors), config.attention_factor or published


def llama3(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """Llama 3.1: wavelengths above L / low_freq_factor are interpolated by s, those below L / high_freq_factor are
    kept, a smooth blend in between."""
    theta = _theta(config, head_dim)
    turns = config.original_length * theta / (2 * math.pi)
    low, high = config.low_freq_factor, config.high_freq_factor
    # Llama 4 has low = high: there is nothing in between
    blend = np.clip((turns - low) / (high - low), 0, 1) if high > low else np.where(turns > high, 1.0, 0.0)
    return (1 - blend) * theta / config.factor + blend * theta, 1.0


def proportional(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """p-RoPE (arXiv 2410.06205, Gemma 4): the fastest rotary_fraction of a head's theta_i, divided by s; 0 beyond.

    Unlike the other scalings', its pairs and its theta_i are those of the whole head.
    """
    theta = _powers(config.theta, head_dim) / config.factor
    return np.where(np.arange(len(theta)) < int(config.rotary_fraction * head_dim // 2), theta, 0.0), 1.0


def power(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """Giraffe's power basis (arXiv 2308.10882): theta_i (1 - 2i/d)^k with k = `power`."""
    theta = _theta(config, head_dim)
    return theta * (1 - np.arange(len(theta)) / len(theta)) ** config.power, 1.0


def truncated(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """Giraffe's truncated basis: theta_i with lambda_i <= L are kept, <= 8 L become 2 pi / (16 L), others 0."""
    theta, once = _theta(config, head_dim), 2 * math.pi / config.original_length
    return np.where(theta >= once, theta, np.where(theta >= once / 8, once / 16, 0.0)), 1.0


def clex(config: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """CLEX (arXiv 2310.16450) before any training: NTK-aware at 2 t - 1. clex.py has what is learned on top of it."""
    return clex_base(config, head_dim, clex_stretch(config, length)), 1.0


def clex_stretch(config: RopeConfig, length: int) -> int:
    """t: how many times the trained length a row of `length` is, in whole numbers from 1 to `factor`."""
    return min(max(math.ceil(length / config.original_length), 1), int(config.factor))


def clex_base(config: RopeConfig, head_dim: int, t: int) -> np.ndarray:
    """What CLEX learns to change, at t times the trained length."""
    return _stretched(config, head_dim, 2 * t - 1)


def _theta(config: RopeConfig, head_dim: int) -> np.ndarray:
    return _powers(config.theta, rotary_size(config, head_dim))


def _stretched(config: RopeConfig, head_dim: int, scale: float) -> np.ndarray:
    d = rotary_size(config, head_dim)
    return _powers(config.theta * scale ** (d / (d - 2)), d)


def _powers(base: float, d: int) -> np.ndarray:
    return base ** (-np.arange(0, d, 2, dtype=np.float64) / d)
