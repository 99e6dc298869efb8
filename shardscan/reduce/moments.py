"""REDUCE, its arithmetic: central moments of many channels at once, which merge.

Formulas: Pébay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical
moments", Sandia report SAND2008-6212. Raw power sums cancel; these do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHANNEL_STATISTICS = ("mean", "std", "min", "max", "mean_abs", "absmax", "rms", "kurtosis", "zeros")


# variances of non-constant channels below these are made of squares and fourth powers that float64 lost to underflow
LEAST_VARIANCE, LEAST_VARIANCE_OF_KURTOSIS = 1e-300, 1e-140


@dataclass(frozen=True, slots=True)
class Moments:
    """Of n channels, over finite values: count, mean, Σ(x−mean)^k for k = 2, 3, 4, Σ|x|, min, max, zeros: each (n,).

    `mean_rest` is what rounding cut off `mean`: the difference of two means is then exact enough where a channel is
    almost constant. A channel without finite values has count 0, mean 0, min inf and max -inf.
    """

    count: np.ndarray
    mean: np.ndarray
    mean_rest: np.ndarray
    m2: np.ndarray
    m3: np.ndarray
    m4: np.ndarray
    sum_abs: np.ndarray
    min: np.ndarray
    max: np.ndarray
    zeros: np.ndarray

    @classmethod
    def from_shifted_sums(cls, shift: np.ndarray, sums: np.ndarray) -> Moments:
        """From Σ(x−shift)^k, k = 1 … 4, Σ|x|, min, max, count and zeros, the rows of `sums` (9, n)."""
        s1, s2, s3, s4, sum_abs, least, most, count, zeros = sums
        n = np.maximum(count, 1.0)
        with _quiet():
            m = s1 / n
            m2 = np.maximum(s2 - n * m**2, 0.0)
            m3 = s3 - 3 * m * s2 + 2 * n * m**3
            m4 = np.maximum(s4 - 4 * m * s3 + 6 * m**2 * s2 - 3 * n * m**4, 0.0)
            mean, rest = _two_sum(np.where(count > 0, shift, 0.0), m)
        return cls(count, mean, rest, m2, m3, m4, sum_abs, least, most, zeros)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values, channel by channel."""
        a, b = self.count, other.count
        n = np.maximum(a + b, 1.0)
        with _quiet():
            apart = (other.mean - self.mean) + (other.mean_rest - self.mean_rest)
            delta = np.where((a > 0) & (b > 0), apart, 0.0)
            d = delta / n
            mean, rest = _two_sum(
                np.where(a > 0, self.mean, other.mean), np.where(a > 0, self.mean_rest, other.mean_rest) + d * b
            )
            m2 = self.m2 + other.m2 + delta * d * a * b
            m3 = self.m3 + other.m3 + delta * d**2 * a * b * (a - b) + 3 * d * (a * other.m2 - b * self.m2)
            m4 = (
                self.m4 + other.m4
                + delta * d**3 * a * b * (a**2 - a * b + b**2)
                + 6 * d**2 * (a**2 * other.m2 + b**2 * self.m2)
                + 4 * d * (a * other.m3 - b * self.m3)
            )  # fmt: skip
            sum_abs = self.sum_abs + other.sum_abs
        least, most = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        return Moments(a + b, mean, rest, m2, m3, m4, sum_abs, least, most, self.zeros + other.zeros)

    def concatenate(self, other: Moments) -> Moments:
        """The channels of both, one after the other."""
        return Moments(*(np.concatenate([getattr(self, f), getattr(other, f)]) for f in self.__slots__))

    def total(self) -> Moments:
        """All channels as one: each field (1,)."""
        count = self.count.sum()
        n = max(count, 1.0)
        with _quiet():
            centre = (self.count * self.mean).sum() / n
            d = np.where(self.count > 0, (self.mean - centre) + self.mean_rest, 0.0)
            sums = np.array([
                (self.count * d).sum(),
                (self.m2 + self.count * d**2).sum(),
                (self.m3 + 3 * d * self.m2 + self.count * d**3).sum(),
                (self.m4 + 4 * d * self.m3 + 6 * d**2 * self.m2 + self.count * d**4).sum(),
                self.sum_abs.sum(),
                self.min.min(initial=np.inf),
                self.max.max(initial=-np.inf),
                count,
                self.zeros.sum(),
            ])  # fmt: skip
        return Moments.from_shifted_sums(np.array([centre]), sums[:, None])

    def statistics(self) -> np.ndarray:
        """CHANNEL_STATISTICS by channel: float64 (9, n), NaN where a statistic does not exist or float64 lost it.

        std is the population's; a constant channel has std 0, its own value as mean, and no kurtosis.
        """
        constant = self.min == self.max
        n = np.maximum(self.count, 1.0)
        least, most = self.min + 0.0, self.max + 0.0  # -0 is 0
        with _quiet():
            mean = np.where(constant, least, self.mean)
            variance = self.m2 / n
            kurtosis = np.where(variance > LEAST_VARIANCE_OF_KURTOSIS, n * self.m4 / self.m2**2, np.nan)
            kurtosis[constant] = np.nan
            std = np.where(constant, 0.0, np.sqrt(np.where(variance > LEAST_VARIANCE, variance, np.nan)))
            rms = np.hypot(std, mean)
            absmax = np.maximum(np.abs(least), np.abs(most))
            out = np.stack([mean, std, least, most, self.sum_abs / n, absmax, rms, kurtosis, self.zeros])
        out[:-1, self.count == 0] = np.nan
        out[~np.isfinite(out)] = np.nan
        return out


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum and what its rounding cut off, exactly (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _quiet() -> np.errstate:
    """For float64 near its limits: what overflows becomes NaN in `statistics`."""
    return np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
