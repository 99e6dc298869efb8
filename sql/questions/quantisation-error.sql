-- title: Error of symmetric quantisation for every role
-- why: How well a role survives one scale per tensor, before anything is quantised; the worst tensor is the one to protect.
-- parameter: bits = 4: width of the integers, from 2 to 32
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask quantisation-error -p bits=8 --store scans
SELECT e.model, e.component, e.role, count(*) AS tensors,
       sqrt(sum(e.count * e.mse ORDER BY e.tensor) / nullif(sum(e.count * e.rms * e.rms ORDER BY e.tensor), 0)) AS relative_frobenius,
       10 * log10(sum(e.count * e.rms * e.rms ORDER BY e.tensor) / nullif(sum(e.count * e.mse ORDER BY e.tensor), 0)) AS sqnr_db,
       max(e.max_error) AS max_error,
       arg_max(e.tensor, (coalesce(e.relative_frobenius, 0), e.tensor)) AS worst_tensor,
       max(e.relative_frobenius) AS worst_relative_frobenius,
       bool_and(e.exact) AS exact
FROM quant_error(bits := $bits, model := $model) e
WHERE e.part = 'weight'
GROUP BY e.model, e.component, e.role
ORDER BY relative_frobenius DESC NULLS LAST, e.model, e.component, e.role;
