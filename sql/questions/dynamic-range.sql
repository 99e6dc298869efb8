-- title: Dynamic range of every role
-- why: Largest over smallest non-zero magnitude is the range a number format has to span; absmax over p99 tells how much of it
--   belongs to one value in a hundred.
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask dynamic-range --store scans
SELECT t.model, t.component, t.role, count(*) AS tensors,
       max(t.absmax) AS absmax, min(t.absmin) AS absmin,
       max(t.absmax / nullif(t.absmin, 0)) AS largest_dynamic_range,
       median(t.absmax / nullif(t.absmin, 0)) AS median_dynamic_range,
       max(t.absmax / nullif(t.p99_abs, 0)) AS largest_absmax_over_p99
FROM tensors t
WHERE t.part = 'weight' AND t.absmax IS NOT NULL AND t.model LIKE $model
GROUP BY t.model, t.component, t.role
ORDER BY largest_dynamic_range DESC NULLS LAST, t.model, t.component, t.role;
