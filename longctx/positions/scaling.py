"""RoPE frequency scalings: each gives the d/2 inverse frequencies (radians per token) and a factor on cos and sin.

Computed in float64 with numpy at trace time: they are constants of the program. d is the rotary dimension, theta_i =
base^(-2i/d), lambda_i = 2 pi / theta_i the wavelength in tokens, s = `factor` = target length / original length.
"""
import math

import numpy as np

from longctx.config import RopeConfig


def none(config: RopeConfig, d: int) -> tuple[np.ndarray, float]:
    """theta_i itself. Changing `base` alone is ABF (Effective Long-Context Scaling, arXiv 2309.16039)."""
    return _theta(config.base, d), 1.0


def linear(config: RopeConfig, d: int) -> tuple[np.ndarray, float]:
    """Position interpolation: theta_i / s (arXiv 2306.15595)."""
    return _theta(config.base, d) / config.factor, 1.0


def ntk(config: RopeConfig, d: int) -> tuple[np.ndarray, float]:
    """NTK-aware: base * s^(d/(d-2)), so that the slowest dimension is interpolated by s and the fastest untouched."""
    return _theta(config.base * config.factor ** (d / (d - 2)), d), 1.0


def yarn(config: RopeConfig, d: int) -> tuple[np.ndarray, float]:
    """YaRN (arXiv 2309.00071): NTK-by-parts and a temperature.

    Dimensions that turn more than beta_fast times within original_length keep theta, those below beta_slow turns get
    theta / s, a linear ramp in between. cos and sin are multiplied by 0.1 ln s + 1 (or attention_factor).
    """
    theta = _theta(config.base, d)
    turns_at = lambda turns: d * math.log(config.original_length / (2 * math.pi * turns)) / (2 * math.log(config.base))
    low = max(math.floor(turns_at(config.beta_fast)), 0)
    high = min(math.ceil(turns_at(config.beta_slow)), d - 1)
    ramp = np.clip((np.arange(d // 2) - low) / (high - low if high > low else 0.001), 0, 1)
    temperature = config.attention_factor or (0.1 * math.log(config.factor) + 1.0 if config.factor > 1 else 1.0)
    return theta * (1 - ramp) + theta / config.factor * ramp, temperature


def llama3(config: RopeConfig, d: int) -> tuple[np.ndarray, float]:
    """Llama 3.1: wavelengths above original_length / low_freq_factor are interpolated by s, those below
    original_length / high_freq_factor are kept, a smooth blend in between."""
    theta = _theta(config.base, d)
    turns = config.original_length * theta / (2 * math.pi)
    blend = np.clip((turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor), 0, 1)
    return (1 - blend) * theta / config.factor + blend * theta, 1.0


def _theta(base: float, d: int) -> np.ndarray:
    return base ** (-np.arange(0, d, 2, dtype=np.float64) / d)
