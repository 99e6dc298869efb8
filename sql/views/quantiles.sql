-- quantiles(name, p, magnitude, model): quantiles of every tensor whose name and model match the LIKE patterns.
--   p           one probability or a list of them, from 0 to 1
--   magnitude   true for quantiles of |x|
--   value       the smallest value whose rank is at least ceil(n·p): Hyndman & Fan 1996 type 1, numpy's inverted_cdf
-- p is taken to 15 decimals and n·p computed in decimals, so 0.07 of 100 values is rank 7 and not the 8 of binary floats.
-- exact is false where the tensor's bins are ranges: then value is the edge of the bin nearer to zero, under 0.8 % off.
CREATE MACRO quantiles(name := '%', p := 0.5, magnitude := false, model := '%') AS TABLE
WITH points AS (
    SELECT d.model, d.tensor, d.count, d.lo = d.hi AS exact,
           CASE WHEN magnitude THEN least(abs(d.lo), abs(d.hi)) WHEN d.lo >= 0 THEN d.lo ELSE d.hi END + 0.0 AS value
    FROM distribution d
    WHERE d.model LIKE model AND d.tensor LIKE name
),
ranked AS (
    SELECT r.model, r.tensor, r.value, CAST(sum(r.count) OVER upto AS BIGINT) AS rank
    FROM points r
    WINDOW upto AS (PARTITION BY r.model, r.tensor ORDER BY r.value RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
),
sizes AS (
    SELECT r.model, r.tensor, CAST(sum(r.count) AS DECIMAL(19, 0)) AS n, bool_and(r.exact) AS exact
    FROM points r
    GROUP BY r.model, r.tensor
),
wanted AS (
    SELECT DISTINCT CASE WHEN q BETWEEN 0 AND 1 THEN CAST(q AS DECIMAL(16, 15))
                         ELSE error('p must lie between 0 and 1') END AS p
    FROM (SELECT unnest([p], recursive := true) AS q)
    WHERE q IS NOT NULL
)
SELECT s.model, s.tensor, CAST(w.p AS DOUBLE) AS p, min(r.value) AS value, any_value(s.exact) AS exact
FROM sizes s
CROSS JOIN wanted w
JOIN ranked r ON r.model = s.model AND r.tensor = s.tensor AND r.rank >= ceil(s.n * w.p)
GROUP BY s.model, s.tensor, w.p;

COMMENT ON MACRO TABLE quantiles IS 'Quantiles (inverted_cdf) of every matching tensor: the smallest value whose rank is at least ceil(n*p).';
