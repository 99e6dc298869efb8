-- key: model, spectrum
-- of: a scan
-- spectrum_fits: what is read off the singular values of a spectrum and cannot be computed well in SQL.
-- λ = σ² (no 1/N), λ₁ the largest, N = max(rows, cols), M = min(rows, cols). Singular values below the method's floor
-- (spectra.floor) are left out of everything. NULL: all of a spectrum of zeros or without values, all but the last two
-- norms where one value is left, the power law where all are equal, mp_ and snr of a circuit: the bulk of a product is
-- not that of one random matrix.
--   alpha, xmin, ks_distance, tail_values
--       power law p(λ) ~ λ^−α for λ ≥ xmin. For each xmin among the λ: n = #{λ ≥ xmin}, α = 1 + n/Σ ln(λ/xmin),
--       D = max |1 − (λ/xmin)^(1−α) − j/n|, j = 0 … n−1 in ascending order; the α of the least D (Clauset, Shalizi &
--       Newman 2009; Martin & Mahoney, WeightWatcher: alpha, xmin, D, num_pl_spikes). The standard error of α is
--       (α − 1)/√n with n = tail_values.
--   alpha_weighted, log_alpha_norm, log_norm, log_spectral_norm
--       α·log₁₀ λ₁, log₁₀ Σλ^α, log₁₀ Σλ, log₁₀ λ₁ (WeightWatcher)
--   mp_edge, mp_spikes, mp_soft_rank
--       λ₊ = s²(1 + 1/√Q)², Q = N/M, s² the mean λ of the bulk {λ ≤ λ₊}, which is all λ at first and shrinks until it
--       no longer changes: the edge of the Marchenko–Pastur law of random entries of variance s²/N. Spikes are the
--       λ > λ₊, the soft rank is λ₊/λ₁ (Martin & Mahoney, arXiv 1810.01075; WeightWatcher fits s to a smoothed density
--       instead). It is above 1 where even λ₁ is inside. Where most values are spikes the matrix has no such bulk.
--   snr, snr_threshold
--       ε = IQR(σ)/1.349·(1 + √(M/N)); (Σσ[σ > ε] / Σσ[σ ≤ ε]) / σ₁, with 1 for the denominator where no σ ≤ ε
--       (QuixiAI/spectrum, arXiv 2406.06623). Quartiles are by linear interpolation.
CREATE TABLE spectrum_fits (
    model             VARCHAR NOT NULL,
    spectrum          VARCHAR NOT NULL,
    matrix            VARCHAR NOT NULL,
    layer             INTEGER,
    role              VARCHAR,
    head              INTEGER,
    alpha             DOUBLE,
    xmin              DOUBLE,
    ks_distance       DOUBLE,
    tail_values       INTEGER,
    alpha_weighted    DOUBLE,
    log_alpha_norm    DOUBLE,
    log_norm          DOUBLE,
    log_spectral_norm DOUBLE,
    mp_edge           DOUBLE,
    mp_spikes         INTEGER,
    mp_soft_rank      DOUBLE,
    snr               DOUBLE,
    snr_threshold     DOUBLE
);

COMMENT ON TABLE spectrum_fits IS
    'Power law, Marchenko-Pastur edge and SNR of every spectrum, from lambda = sigma^2 at or above spectra.floor.';
COMMENT ON COLUMN spectrum_fits.model IS 'Name of the model in this store.';
COMMENT ON COLUMN spectrum_fits.spectrum IS 'Spectrum id: see spectra.';
COMMENT ON COLUMN spectrum_fits.matrix IS 'Matrix id: see matrices.';
COMMENT ON COLUMN spectrum_fits.layer IS 'Layer of the matrix.';
COMMENT ON COLUMN spectrum_fits.role IS 'Role of the matrix; ov or qk for a circuit.';
COMMENT ON COLUMN spectrum_fits.head IS
    'Head number from 0, of a circuit that of the query head; NULL for the whole matrix. KV heads are stored once.';
COMMENT ON COLUMN spectrum_fits.alpha IS
    'Exponent of the power law lambda^-alpha of the tail: 1 + n / sum ln(lambda / xmin) (WeightWatcher).';
COMMENT ON COLUMN spectrum_fits.xmin IS
    'Smallest lambda of the tail, chosen for the least ks_distance (WeightWatcher).';
COMMENT ON COLUMN spectrum_fits.ks_distance IS
    'Kolmogorov-Smirnov distance between the tail and its power law, from 0 to 1 (WeightWatcher D).';
COMMENT ON COLUMN spectrum_fits.tail_values IS
    'Number n of lambda >= xmin (WeightWatcher num_pl_spikes): alpha is good to (alpha - 1) / sqrt(n).';
COMMENT ON COLUMN spectrum_fits.alpha_weighted IS 'alpha * log10 of the largest lambda (WeightWatcher).';
COMMENT ON COLUMN spectrum_fits.log_alpha_norm IS 'log10 of the sum of lambda^alpha (WeightWatcher).';
COMMENT ON COLUMN spectrum_fits.log_norm IS 'log10 of the sum of lambda, the squared Frobenius norm (WeightWatcher).';
COMMENT ON COLUMN spectrum_fits.log_spectral_norm IS
    'log10 of the largest lambda, the squared spectral norm (WeightWatcher).';
COMMENT ON COLUMN spectrum_fits.mp_edge IS
    'Edge of the Marchenko-Pastur bulk, a lambda: mean lambda below it * (1 + sqrt(M/N))^2 (arXiv 1810.01075). '
    'NULL of a circuit.';
COMMENT ON COLUMN spectrum_fits.mp_spikes IS 'Number of lambda above mp_edge.';
COMMENT ON COLUMN spectrum_fits.mp_soft_rank IS
    'mp_edge / largest lambda: about 1 for random weights, near 0 where the largest values stand far out.';
COMMENT ON COLUMN spectrum_fits.snr IS
    'Sum of sigma above snr_threshold / sum of the others (1 if none) / largest (QuixiAI/spectrum). NULL of a circuit.';
COMMENT ON COLUMN spectrum_fits.snr_threshold IS
    'Interquartile range of sigma / 1.349 * (1 + sqrt(M/N)), as a sigma (QuixiAI/spectrum).';
