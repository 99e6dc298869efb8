-- outlier_channels(sigma): channels whose magnitude c = mean|w| stands out from the others of their matrix and axis.
--   outlier    c > mean(c) + sigma·std(c), std of the population (ddof 0)
--   z          (c − mean(c)) / std(c)
--   robust_z   |c − median(c)| / (1.4826·MAD), MAD = median|c − median(c)|; NULL where MAD = 0
--              (Iglewicz & Hoaglin 1993)
-- Channels that are all equal have no outlier: min(c) < max(c) is asked first, because the mean of equal numbers may
-- round below them.
-- These are channels of weights; the features of LLM.int8() (arXiv 2208.07339) are channels of activations, which no
-- checkpoint holds.
CREATE MACRO outlier_channels(sigma := 3) AS TABLE
WITH axes AS (
    SELECT model, matrix, axis, avg(mean_abs) AS center, stddev_pop(mean_abs) AS spread,
           median(mean_abs) AS middle, 1.4826 * mad(mean_abs) AS robust_spread
    FROM channels
    GROUP BY model, matrix, axis
    HAVING min(mean_abs) < max(mean_abs)
)
SELECT c.model, c.matrix, c.axis, c.channel, c.layer, c.role, c.head, c.mean_abs,
       (c.mean_abs - a.center) / a.spread AS z,
       abs(c.mean_abs - a.middle) / nullif(a.robust_spread, 0) AS robust_z,
       c.absmax
FROM channels c JOIN axes a ON a.model = c.model AND a.matrix = c.matrix AND a.axis = c.axis
WHERE a.spread > 0 AND c.mean_abs > a.center + sigma * a.spread;

COMMENT ON MACRO TABLE outlier_channels IS 'Channels with mean|w| over sigma deviations above the mean of their axis.';
