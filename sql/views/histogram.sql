-- histogram(name, bins, model): every tensor whose name and model match the LIKE patterns, in bins of equal width.
--   step = (last − first) / bins, from the smallest to the largest value; edge k = first + k·step, the last one is last
-- A value on an edge belongs to the bin above it, the largest value to the last bin, and a constant tensor gets one
-- unit around it: numpy.histogram's rules, edges and counts. Empty bins have a row.
-- A range of the distribution (lo < hi: dtypes wider than 16 bits) counts in the bin of its midpoint.
-- Inside the macro a bare model or name is the parameter, so columns carry the name of their table.
CREATE MACRO histogram(name := '%', bins := 50, model := '%') AS TABLE
WITH chosen AS (
    SELECT CASE WHEN bins BETWEEN 1 AND 1000000 THEN CAST(bins AS BIGINT)
                ELSE error('bins must lie between 1 and 1000000') END AS n
),
ends AS (
    SELECT d.model, d.tensor, min(d.lo) AS smallest, max(d.hi) AS largest,
           CASE WHEN smallest < largest THEN smallest ELSE smallest - 0.5 END AS first,
           CASE WHEN smallest < largest THEN largest ELSE largest + 0.5 END AS last
    FROM distribution d
    WHERE d.model LIKE model AND d.tensor LIKE name
    GROUP BY d.model, d.tensor
),
grids AS (
    SELECT e.model, e.tensor, e.first, e.last, c.n, (e.last - e.first) / c.n AS step
    FROM ends e CROSS JOIN chosen c
),
guesses AS (
    SELECT g.model, g.tensor, g.n, g.first, g.step, d.count, d.lo * 0.5 + d.hi * 0.5 AS value,
           least(CAST(floor((value - g.first) / (g.last - g.first) * g.n) AS BIGINT), g.n - 1) AS guess
    FROM distribution d JOIN grids g ON g.model = d.model AND g.tensor = d.tensor
),
counted AS (
    -- rounding may put a value one bin beside its own: the edges decide
    SELECT v.model, v.tensor, sum(v.count) AS count,
           CASE WHEN v.value < v.first + v.guess * v.step THEN v.guess - 1
                WHEN v.guess < v.n - 1 AND v.value >= v.first + (v.guess + 1) * v.step THEN v.guess + 1
                ELSE v.guess END AS bin
    FROM guesses v
    GROUP BY ALL
),
edges AS (
    SELECT g.model, g.tensor, k AS bin, g.first + k * g.step AS lo,
           CASE WHEN k = g.n - 1 THEN g.last ELSE g.first + (k + 1) * g.step END AS hi
    FROM chosen c, range(c.n) AS steps(k), grids g
)
SELECT e.model, e.tensor, CAST(e.bin AS INTEGER) AS bin, e.lo, e.hi, CAST(coalesce(c.count, 0) AS BIGINT) AS count
FROM edges e LEFT JOIN counted c ON c.model = e.model AND c.tensor = e.tensor AND c.bin = e.bin;

COMMENT ON MACRO TABLE histogram IS 'Equal-width histogram of every matching tensor: one row per bin, also empty ones.';
