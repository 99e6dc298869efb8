-- quant_error(bits, name, model): what symmetric absmax rounding, one scale per tensor, would do to a matching tensor.
--   Δ                    max|w| / (2^(bits−1) − 1), max|w| = tensors.absmax
--   ŵ                    round(w/Δ)·Δ, halves to even (numpy.rint)
--   mse                  Σ(w − ŵ)²/n, n = number of finite values
--   relative_frobenius   √(Σ(w − ŵ)²/Σw²); NULL for a tensor of zeros
--   sqnr_db              10·log₁₀(Σw²/Σ(w − ŵ)²); NULL also where there is no error at all (it would be infinite)
--   max_error            max|w − ŵ|
--   rms                  √(Σw²/n)
-- exact is false where the tensor's bins are ranges (dtypes wider than 16 bits): then w is the midpoint of its bin, and
-- Δ is still exact.
-- Inside the macro a bare model, name or bits is the parameter, so columns carry the name of their table.
CREATE MACRO quant_error(bits := 4, name := '%', model := '%') AS TABLE
WITH steps AS MATERIALIZED (
    -- an integer groups faster than two names; MATERIALIZED, because a second reading might number them differently
    SELECT t.model, t.tensor, t.component, t.layer, t.role, t.expert, t.part, row_number() OVER () AS id,
           t.absmax / CASE WHEN bits BETWEEN 2 AND 32 THEN 2.0 ** (CAST(bits AS INTEGER) - 1) - 1
                           ELSE error('bits must lie between 2 and 32') END AS delta
    FROM tensors t
    WHERE t.model LIKE model AND t.tensor LIKE name AND t.absmax IS NOT NULL
),
rounded AS (
    SELECT s.id, d.count, d.lo = d.hi AS exact, d.lo * 0.5 + d.hi * 0.5 AS w,
           w - round_even(w / nullif(s.delta, 0), 0) * s.delta AS error
    FROM distribution d JOIN steps s ON s.model = d.model AND s.tensor = d.tensor
),
sums AS (
    -- a tensor of zeros has no step, so its errors are NULL: they are 0
    SELECT r.id, CAST(sum(r.count) AS BIGINT) AS count, sum(r.count * r.w * r.w) AS signal,
           coalesce(sum(r.count * r.error * r.error), 0) AS noise,
           coalesce(max(abs(r.error)), 0) AS max_error,
           bool_and(r.exact) AS exact
    FROM rounded r
    GROUP BY r.id
)
SELECT s.model, s.tensor, s.component, s.layer, s.role, s.expert, s.part,
       CAST(bits AS INTEGER) AS bits, e.count, s.delta,
       e.noise / e.count AS mse,
       sqrt(e.noise / nullif(e.signal, 0)) AS relative_frobenius,
       10 * log10(e.signal / nullif(e.noise, 0)) AS sqnr_db,
       e.max_error,
       sqrt(e.signal / e.count) AS rms,
       e.exact
FROM steps s
JOIN sums e ON e.id = s.id;

COMMENT ON MACRO TABLE quant_error IS 'Error of symmetric absmax quantisation with one scale per tensor.';
