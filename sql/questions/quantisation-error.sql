-- title: Error of symmetric per-tensor quantisation for every role
-- why: How well a role survives one scale per tensor, before anything is quantised; the layer with the worst tensor is
--   the one to protect, and 1-D weights (norms), which nobody quantises, are left out.
-- parameter: bits = 4: width of the integers, from 2 to 32
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask quantisation-error -p bits=8 --store scans
WITH errors AS (
    SELECT e.model, e.component, e.role, e.layer, e.tensor, e.relative_frobenius, e.exact,
           e.count * e.mse AS noise,
           e.count * e.rms * e.rms AS signal
    FROM quant_error(bits := $bits, model := $model) e
    JOIN tensors t ON t.model = e.model AND t.tensor = e.tensor
    WHERE t.part = 'weight' AND len(t.shape) > 1
),
sums AS (
    SELECT model, component, role, count(*) AS tensors,
           sum(noise ORDER BY tensor) AS noise,
           sum(signal ORDER BY tensor) AS signal,
           max(relative_frobenius) AS worst,
           arg_max_null(layer, (coalesce(relative_frobenius, 0), tensor)) AS worst_layer,
           bool_and(exact) AS exact
    FROM errors
    GROUP BY model, component, role
)
SELECT model, component, role, tensors, sqrt(noise / nullif(signal, 0)) AS relative_frobenius,
       10 * log10(signal / nullif(noise, 0)) AS sqnr_db, worst, worst_layer, exact
FROM sums
ORDER BY relative_frobenius DESC NULLS LAST, model, component, role;
