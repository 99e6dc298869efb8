-- layer_profile: what the weights of one role in one layer look like; a layer's experts are pooled as if one tensor.
-- Sums run over the tensors t of a row, n_t = number of finite values:
--   mean            Σ n_t·mean_t / Σ n_t, and mean_abs likewise
--   rms             √(Σ n_t·rms_t² / Σ n_t)
--   std             √(Σ n_t·(std_t² + (mean_t − mean)²) / Σ n_t)
--   dynamic_range   max|w| / smallest non-zero |w|
--   tail_ratio      max|w| / p999_abs
--   incoherence     max|w| / rms, which is max|W|·√(mn)/‖W‖_F of QuaRot (arXiv 2404.00456)
--   sparsity        zeros / elements
-- Kurtosis and p999_abs do not pool: they are the largest of the tensors pooled.
CREATE VIEW layer_profile AS
WITH weights AS (
    SELECT *, parameters - coalesce(nans, 0) - coalesce(infs, 0) AS n FROM tensors WHERE part = 'weight'
),
centers AS (
    SELECT model, component, layer, role, sum(n * mean) / nullif(sum(n) FILTER (mean IS NOT NULL), 0) AS mean
    FROM weights
    GROUP BY ALL
),
pooled AS (
    SELECT w.model, w.component, w.layer, w.role,
           CAST(count(*) AS BIGINT) AS tensors,
           CAST(sum(w.parameters) AS BIGINT) AS parameters,
           any_value(c.mean) AS mean,
           sqrt(sum(w.n * (w.std * w.std + (w.mean - c.mean) ** 2))
                / nullif(sum(w.n) FILTER (w.std IS NOT NULL), 0)) AS std,
           min(w.min) AS min, max(w.max) AS max, max(w.absmax) AS absmax, min(w.absmin) AS absmin,
           sum(w.n * w.mean_abs) / nullif(sum(w.n) FILTER (w.mean_abs IS NOT NULL), 0) AS mean_abs,
           sqrt(sum(w.n * w.rms * w.rms) / nullif(sum(w.n) FILTER (w.rms IS NOT NULL), 0)) AS rms,
           max(w.kurtosis) AS kurtosis, max(w.p999_abs) AS p999_abs,
           CAST(sum(w.zeros) AS BIGINT) AS zeros, CAST(sum(w.near_zeros) AS BIGINT) AS near_zeros,
           CAST(sum(w.nans) AS BIGINT) AS nans, CAST(sum(w.infs) AS BIGINT) AS infs,
           sum(w.parameters) FILTER (w.zeros IS NOT NULL) AS counted
    FROM weights w
    JOIN centers c ON c.model = w.model AND c.component IS NOT DISTINCT FROM w.component
                  AND c.layer IS NOT DISTINCT FROM w.layer AND c.role IS NOT DISTINCT FROM w.role
    GROUP BY w.model, w.component, w.layer, w.role
)
SELECT model, component, layer, role, tensors, parameters,
       mean, std, min, max, absmax, absmin, mean_abs, rms, kurtosis, p999_abs,
       absmax / nullif(absmin, 0) AS dynamic_range,
       absmax / nullif(p999_abs, 0) AS tail_ratio,
       absmax / nullif(rms, 0) AS incoherence,
       zeros / nullif(CAST(counted AS DOUBLE), 0) AS sparsity,
       zeros, near_zeros, nans, infs
FROM pooled;

COMMENT ON VIEW layer_profile IS 'Statistics of the weights of every role in every layer, experts pooled.';
COMMENT ON COLUMN layer_profile.model IS 'Name of the model in this store.';
COMMENT ON COLUMN layer_profile.component IS 'Part of the model the tensors belong to.';
COMMENT ON COLUMN layer_profile.layer IS 'Layer number from 0; NULL only where there is none.';
COMMENT ON COLUMN layer_profile.role IS 'Role of the tensors.';
COMMENT ON COLUMN layer_profile.tensors IS 'Tensors pooled in this row: 1, or the number of experts.';
COMMENT ON COLUMN layer_profile.parameters IS 'Elements of these tensors.';
COMMENT ON COLUMN layer_profile.mean IS 'Mean of the finite values.';
COMMENT ON COLUMN layer_profile.std IS 'Population standard deviation of the finite values.';
COMMENT ON COLUMN layer_profile.min IS 'Smallest finite value.';
COMMENT ON COLUMN layer_profile.max IS 'Largest finite value.';
COMMENT ON COLUMN layer_profile.absmax IS 'Largest magnitude.';
COMMENT ON COLUMN layer_profile.absmin IS 'Smallest magnitude that is not zero.';
COMMENT ON COLUMN layer_profile.mean_abs IS 'Mean magnitude.';
COMMENT ON COLUMN layer_profile.rms IS 'Root of the mean square.';
COMMENT ON COLUMN layer_profile.kurtosis IS 'Largest kurtosis of these tensors; 3 for a Gaussian.';
COMMENT ON COLUMN layer_profile.p999_abs IS 'Largest p999_abs of these tensors.';
COMMENT ON COLUMN layer_profile.dynamic_range IS 'absmax / absmin.';
COMMENT ON COLUMN layer_profile.tail_ratio IS 'absmax / p999_abs: how far the last thousandth reaches.';
COMMENT ON COLUMN layer_profile.incoherence IS 'absmax / rms: 1 where all |w| are equal, more where few dominate.';
COMMENT ON COLUMN layer_profile.sparsity IS 'Share of values that are zero.';
COMMENT ON COLUMN layer_profile.zeros IS 'Values equal to zero.';
COMMENT ON COLUMN layer_profile.near_zeros IS 'Finite values with |x| <= 1e-8, zeros included.';
COMMENT ON COLUMN layer_profile.nans IS 'NaN values.';
COMMENT ON COLUMN layer_profile.infs IS 'Infinite values.';
