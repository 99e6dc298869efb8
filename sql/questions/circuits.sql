-- title: The OV and QK circuits of lowest rank in every layer
-- why: A head whose OV circuit is of low effective rank writes few directions whatever it reads, and one whose QK
--   circuit is looks at few, so it may do with less width; empty unless the scan had --spectra circuits.
-- parameter: role = %: LIKE pattern of circuits: ov or qk
-- parameter: per_layer = 1: circuits of one layer and role, lowest effective rank first
-- parameter: top = 100: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask circuits -p role=ov --store scans
SELECT model, component, role, layer, head, effective_rank, stable_rank, energy_rank_90, design_rank, spectral_norm
FROM ranks
WHERE kind = 'circuit' AND effective_rank IS NOT NULL AND model LIKE $model AND role LIKE $role
QUALIFY row_number() OVER (PARTITION BY model, component, role, layer ORDER BY effective_rank, head) <= $per_layer
ORDER BY effective_rank / design_rank, model, component, role, layer NULLS FIRST, head
LIMIT $top;
