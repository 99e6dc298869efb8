-- quantiles(name, p, magnitude, model): quantiles of every tensor whose name and model match the LIKE patterns.
--   p           one probability or a list of them, from 0 to 1
--   magnitude   true for quantiles of |x|
--   value       the smallest value whose rank is at least ceil(n·p): Hyndman & Fan 1996 type 1, numpy's inverted_cdf
-- p is taken to 15 decimals and n·p computed in decimals: 0.07 of 100 values is rank 7, and not the 8 of binary floats.
-- Ranks add up as DOUBLE, four times faster than as HUGEINT and exact below 2⁵³ values.
-- exact is false where the tensor's bins are ranges: then value is the edge of the bin nearer to zero, under 0.8 % off.
-- Inside the macro a bare model or name is the parameter, so columns carry the name of their table.
CREATE MACRO quantiles(name := '%', p := 0.5, magnitude := false, model := '%') AS TABLE
WITH sizes AS MATERIALIZED (
    -- an integer sorts faster than two names; MATERIALIZED, because a second reading might number them differently
    SELECT d.model, d.tensor, row_number() OVER () AS id,
           CAST(sum(d.count) AS DECIMAL(19, 0)) AS n, bool_and(d.lo = d.hi) AS exact
    FROM distribution d
    WHERE d.model LIKE model AND d.tensor LIKE name
    GROUP BY d.model, d.tensor
),
points AS (
    SELECT s.id, d.count,
           CASE WHEN magnitude THEN least(abs(d.lo), abs(d.hi)) WHEN d.lo >= 0 THEN d.lo ELSE d.hi END + 0.0 AS value
    FROM distribution d JOIN sizes s ON s.model = d.model AND s.tensor = d.tensor
),
ranked AS (
    SELECT r.id, r.value, r.count, sum(CAST(r.count AS DOUBLE)) OVER upto AS rank
    FROM points r
    WINDOW upto AS (PARTITION BY r.id ORDER BY r.value ROWS UNBOUNDED PRECEDING)
),
probabilities AS (
    SELECT DISTINCT CASE WHEN q BETWEEN 0 AND 1 THEN CAST(q AS DECIMAL(16, 15))
                         ELSE error('p must lie between 0 and 1') END AS p
    FROM (SELECT unnest([p], recursive := true) AS q)
    WHERE q IS NOT NULL
),
wanted AS (
    SELECT s.model, s.tensor, s.id, s.exact, w.p, greatest(CAST(ceil(s.n * w.p) AS DOUBLE), 1) AS rank
    FROM sizes s CROSS JOIN probabilities w
)
SELECT w.model, w.tensor, CAST(w.p AS DOUBLE) AS p, r.value, w.exact
FROM wanted w JOIN ranked r ON r.id = w.id AND r.rank >= w.rank AND r.rank - r.count < w.rank;

COMMENT ON MACRO TABLE quantiles IS 'Quantiles (inverted_cdf) of every matching tensor: rank at least ceil(n*p).';
