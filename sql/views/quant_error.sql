-- quant_error(bits, name, model): what symmetric absmax rounding, one scale per tensor, would do to a matching tensor.
--   Δ                    max|w| / (2^(bits−1) − 1)
--   ŵ                    round(w/Δ)·Δ, halves to even (numpy.rint)
--   mse                  Σ(w − ŵ)²/n, n = number of finite values
--   relative_frobenius   √(Σ(w − ŵ)²/Σw²); NULL for a tensor of zeros
--   sqnr_db              10·log₁₀(Σw²/Σ(w − ŵ)²); NULL also where there is no error at all (it would be infinite)
--   max_error            max|w − ŵ|
--   rms                  √(Σw²/n)
-- exact is false where the tensor's bins are ranges (dtypes wider than 16 bits): then w is the midpoint of its bin.
-- Inside the macro a bare model, name or bits is the parameter, so columns carry the name of their table.
CREATE MACRO quant_error(bits := 4, name := '%', model := '%') AS TABLE
WITH points AS (
    SELECT d.model, d.tensor, d.count, d.lo = d.hi AS exact, d.lo * 0.5 + d.hi * 0.5 AS w
    FROM distribution d
    WHERE d.model LIKE model AND d.tensor LIKE name
),
largest AS (
    SELECT r.model, r.tensor, max(abs(r.w)) AS absmax
    FROM points r
    GROUP BY r.model, r.tensor
),
steps AS (
    SELECT l.model, l.tensor,
           l.absmax / CASE WHEN bits BETWEEN 2 AND 32 THEN 2.0 ** (CAST(bits AS INTEGER) - 1) - 1
                           ELSE error('bits must lie between 2 and 32') END AS delta
    FROM largest l
),
rounded AS (
    SELECT r.model, r.tensor, r.count, r.exact, r.w, s.delta,
           r.w - coalesce(round_even(r.w / nullif(s.delta, 0), 0) * s.delta, 0) AS error
    FROM points r JOIN steps s ON s.model = r.model AND s.tensor = r.tensor
),
sums AS (
    SELECT e.model, e.tensor, any_value(e.delta) AS delta, bool_and(e.exact) AS exact,
           CAST(sum(e.count) AS BIGINT) AS count,
           sum(e.count * e.error * e.error) AS noise,
           sum(e.count * e.w * e.w) AS signal,
           max(abs(e.error)) AS max_error
    FROM rounded e
    GROUP BY e.model, e.tensor
)
SELECT s.model, s.tensor, t.component, t.layer, t.role, t.expert, t.part,
       CAST(bits AS INTEGER) AS bits, s.count, s.delta,
       s.noise / s.count AS mse,
       sqrt(s.noise / nullif(s.signal, 0)) AS relative_frobenius,
       10 * log10(s.signal / nullif(s.noise, 0)) AS sqnr_db,
       s.max_error,
       sqrt(s.signal / s.count) AS rms,
       s.exact
FROM sums s LEFT JOIN tensors t ON t.model = s.model AND t.tensor = s.tensor;

COMMENT ON MACRO TABLE quant_error IS 'Error of symmetric absmax quantisation with one scale per tensor.';
