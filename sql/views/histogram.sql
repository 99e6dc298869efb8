-- histogram(name, bins, model): the values of every tensor whose name and model match the LIKE patterns, in bins of equal width.
-- Edge k is lo·(1 − k/bins) + hi·(k/bins) from the smallest to the largest value; a value on an edge belongs to the bin above it, the
-- largest value to the last bin, and a constant tensor gets one unit around it: numpy.histogram's rules. Empty bins have a row.
-- A range of the distribution (lo < hi: dtypes wider than 16 bits) counts in the bin of its midpoint.
CREATE MACRO histogram(name := '%', bins := 50, model := '%') AS TABLE
WITH points AS (
    SELECT d.model, d.tensor, d.count, d.lo, d.hi, d.lo * 0.5 + d.hi * 0.5 AS value
    FROM distribution d
    WHERE d.model LIKE model AND d.tensor LIKE name
),
ranges AS (
    SELECT r.model, r.tensor,
           CASE WHEN min(r.lo) < max(r.hi) THEN min(r.lo) ELSE min(r.lo) - 0.5 END AS first,
           CASE WHEN min(r.lo) < max(r.hi) THEN max(r.hi) ELSE max(r.hi) + 0.5 END AS last
    FROM points r
    GROUP BY r.model, r.tensor
),
edges AS (
    SELECT r.model, r.tensor, CAST(k AS INTEGER) AS bin,
           r.first * (1 - k / CAST(bins AS DOUBLE)) + r.last * (k / CAST(bins AS DOUBLE)) AS lo,
           r.first * (1 - (k + 1) / CAST(bins AS DOUBLE)) + r.last * ((k + 1) / CAST(bins AS DOUBLE)) AS hi
    FROM ranges r
    CROSS JOIN range(CASE WHEN bins BETWEEN 1 AND 1000000 THEN CAST(bins AS BIGINT)
                          ELSE error('bins must lie between 1 and 1000000') END) AS steps(k)
),
counted AS (
    SELECT e.model, e.tensor, e.bin, sum(r.count) AS count
    FROM points r
    ASOF JOIN edges e ON e.model = r.model AND e.tensor = r.tensor AND r.value >= e.lo
    GROUP BY e.model, e.tensor, e.bin
)
SELECT e.model, e.tensor, e.bin, e.lo, e.hi, CAST(coalesce(c.count, 0) AS BIGINT) AS count
FROM edges e LEFT JOIN counted c ON c.model = e.model AND c.tensor = e.tensor AND c.bin = e.bin;

COMMENT ON MACRO TABLE histogram IS 'Equal-width histogram of every matching tensor: one row per bin, empty bins included.';
