-- title: Dynamic range of every role
-- why: Largest over smallest non-zero magnitude is the range that a number format has to span, and absmax over p99_abs
--   how much of it one value in a hundred takes; 1-D weights (norms), which keep their format, are left out.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask dynamic-range --store scans
WITH weights AS (
    SELECT model, component, role, absmax, absmin,
           absmax / nullif(absmin, 0) AS dynamic_range,
           absmax / nullif(p99_abs, 0) AS over_p99
    FROM tensors
    WHERE part = 'weight' AND len(shape) > 1 AND absmax IS NOT NULL AND model LIKE $model
)
SELECT model, component, role, count(*) AS tensors, max(absmax) AS absmax, min(absmin) AS absmin,
       max(dynamic_range) AS max_range, median(dynamic_range) AS median_range, max(over_p99) AS over_p99
FROM weights
GROUP BY model, component, role
ORDER BY max_range DESC NULLS LAST, model, component, role;
