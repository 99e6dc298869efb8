-- ranks: every rank metric of every spectrum, from its singular values σ₁ ≥ … ≥ σ_r.
-- r = min(rows, cols), of a circuit at most head_dim; N = max(rows, cols), λ = σ², p = σ/Σσ, q = λ/Σλ.
--   top10_ratio, least10_ratio    Σ of the 10 largest (smallest) σ / Σσ
--   first_last_ratio, condition   σ₁/σ_r; NULL where σ_r = 0 or below the method's floor: it would be a ratio to noise
--   stable_rank                   Σλ/λ₁ (Rudelson & Vershynin 2007)
--   participation_ratio           (Σλ)²/Σλ²
--   nuclear_norm, frobenius       Σσ, √Σλ; spectral_norm is σ₁
--   effective_rank                exp(−Σ p ln p) (Roy & Vetterli 2007, on σ); effective_rank_energy: the same on q
--   energy_rank_90 (95, 99)       least k with Σ_{i≤k} λ ≥ 0.90 Σλ
--   numerical_rank                #{σ > N·eps(float32)·σ₁}, numpy.linalg.matrix_rank's rule, eps(float32) = 2⁻²³
--   entropy                       −Σ q ln q / ln r (Martin & Mahoney, WeightWatcher); NULL where r = 1
-- All sums run over x = σ/σ₁, so no scale of weights overflows a square. With S = Σx the entropy of p is
-- ln S − (Σ x ln x)/S, which needs one pass.
-- A spectrum of zeros has norms and numerical ranks 0; whatever divides by Σσ is NULL. least10_ratio keeps its value
-- below the floor: what is noise there weighs less than 1e-4 of Σσ.
CREATE VIEW ranks AS
WITH scaled AS (
    SELECT v.model, v.spectrum, v.i, v.sigma, s.rank, greatest(s.rows, s.cols) * 2.0 ** -23 AS tau,
           v.sigma / nullif(s.sigma_max, 0) AS x
    FROM singular_values v JOIN spectra s ON s.model = v.model AND s.spectrum = v.spectrum
),
running AS (
    SELECT *,
           sum(x * x) OVER (PARTITION BY model, spectrum ORDER BY i) AS energy_to_here,
           sum(x * x) OVER (PARTITION BY model, spectrum) AS energy
    FROM scaled
),
sums AS (
    SELECT model, spectrum,
           sum(sigma) AS nuclear_norm,
           sum(x) AS s1,
           sum(x * x) AS s2,
           sum(x * x * x * x) AS s4,
           sum(x) FILTER (i <= 10) AS top10,
           sum(x) FILTER (i > rank - 10) AS least10,
           sum(x * ln(x)) FILTER (x > 0) AS x_ln_x,
           sum(x * x * ln(x * x)) FILTER (x * x > 0) AS e_ln_e,
           count(*) FILTER (energy_to_here < 0.90 * energy) AS below_90,
           count(*) FILTER (energy_to_here < 0.95 * energy) AS below_95,
           count(*) FILTER (energy_to_here < 0.99 * energy) AS below_99,
           count(*) FILTER (x > tau) AS above_tau,
           count(*) FILTER (x > 1e-6) AS above_1e6
    FROM running
    GROUP BY model, spectrum
)
SELECT s.model, s.spectrum, s.matrix, m.kind, m.component, s.layer, s.role, m.expert, s.head, s.rows, s.cols,
       a.top10 / a.s1 AS top10_ratio,
       a.least10 / a.s1 AS least10_ratio,
       CASE WHEN s.sigma_min > 0 AND coalesce(s.below_floor, 0) = 0
            THEN s.sigma_max / s.sigma_min END AS first_last_ratio,
       a.s2 AS stable_rank,
       a.s2 * a.s2 / a.s4 AS participation_ratio,
       a.nuclear_norm AS nuclear_norm,
       s.sigma_max * coalesce(sqrt(a.s2), 0) AS frobenius,
       s.sigma_max AS spectral_norm,
       exp(ln(a.s1) - a.x_ln_x / a.s1) AS effective_rank,
       exp(ln(a.s2) - a.e_ln_e / a.s2) AS effective_rank_energy,
       CASE WHEN a.s2 > 0 THEN CAST(1 + a.below_90 AS BIGINT) END AS energy_rank_90,
       CASE WHEN a.s2 > 0 THEN CAST(1 + a.below_95 AS BIGINT) END AS energy_rank_95,
       CASE WHEN a.s2 > 0 THEN CAST(1 + a.below_99 AS BIGINT) END AS energy_rank_99,
       a.above_tau AS numerical_rank,
       a.above_1e6 AS numerical_rank_1e6,
       s.rank AS design_rank,
       first_last_ratio AS condition,
       (ln(a.s2) - a.e_ln_e / a.s2) / nullif(ln(s.rank), 0) AS entropy
FROM spectra s
LEFT JOIN sums a ON a.model = s.model AND a.spectrum = s.spectrum
LEFT JOIN matrices m ON m.model = s.model AND m.matrix = s.matrix;

COMMENT ON VIEW ranks IS 'Every rank metric of every spectrum: one row per head, whole matrix or circuit.';
COMMENT ON COLUMN ranks.model IS 'Name of the model in this store.';
COMMENT ON COLUMN ranks.spectrum IS 'Spectrum id: see spectra.';
COMMENT ON COLUMN ranks.matrix IS 'Matrix id: see matrices.';
COMMENT ON COLUMN ranks.kind IS
    'Kind of the matrix: see matrices; circuit for a product of two heads, delta for a LoRA pair.';
COMMENT ON COLUMN ranks.component IS 'Part of the model the matrix belongs to.';
COMMENT ON COLUMN ranks.layer IS 'Layer number from 0; NULL only where there is none.';
COMMENT ON COLUMN ranks.role IS 'Role of the matrix; ov or qk for a circuit: see matrices.role.';
COMMENT ON COLUMN ranks.expert IS 'Expert number from 0; NULL outside mixtures of experts.';
COMMENT ON COLUMN ranks.head IS
    'Head number from 0, of a circuit that of the query head; NULL for the whole matrix. KV heads occur once.';
COMMENT ON COLUMN ranks.rows IS 'Rows of the matrix, head slice or circuit.';
COMMENT ON COLUMN ranks.cols IS 'Columns of the matrix, head slice or circuit.';
COMMENT ON COLUMN ranks.top10_ratio IS 'Sum of the 10 largest singular values over the sum of all.';
COMMENT ON COLUMN ranks.least10_ratio IS 'Sum of the 10 smallest singular values over the sum of all.';
COMMENT ON COLUMN ranks.first_last_ratio IS 'Largest over smallest singular value; NULL where that is 0 or noise.';
COMMENT ON COLUMN ranks.stable_rank IS 'Sum of squares over the largest square.';
COMMENT ON COLUMN ranks.participation_ratio IS 'Square of the sum of squares over the sum of fourth powers.';
COMMENT ON COLUMN ranks.nuclear_norm IS 'Sum of the singular values.';
COMMENT ON COLUMN ranks.frobenius IS 'Root of the sum of squares.';
COMMENT ON COLUMN ranks.spectral_norm IS 'Largest singular value.';
COMMENT ON COLUMN ranks.effective_rank IS 'exp(-sum p ln p), p = sigma / sum sigma (Roy and Vetterli 2007).';
COMMENT ON COLUMN ranks.effective_rank_energy IS 'exp(-sum q ln q), q = sigma^2 / sum sigma^2.';
COMMENT ON COLUMN ranks.energy_rank_90 IS 'Fewest singular values that hold 90 % of the sum of squares.';
COMMENT ON COLUMN ranks.energy_rank_95 IS 'Fewest singular values that hold 95 % of the sum of squares.';
COMMENT ON COLUMN ranks.energy_rank_99 IS 'Fewest singular values that hold 99 % of the sum of squares.';
COMMENT ON COLUMN ranks.numerical_rank IS 'Singular values above max(rows, cols) * 2^-23 of the largest.';
COMMENT ON COLUMN ranks.numerical_rank_1e6 IS 'Singular values above 1e-6 of the largest.';
COMMENT ON COLUMN ranks.design_rank IS
    'Number of singular values: min(rows, cols), of a circuit at most head_dim.';
COMMENT ON COLUMN ranks.condition IS 'Condition number: the same as first_last_ratio.';
COMMENT ON COLUMN ranks.entropy IS '-sum q ln q / ln design_rank, q as above: 1 where all are equal.';
