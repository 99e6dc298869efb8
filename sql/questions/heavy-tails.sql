-- title: Tensors with the heaviest tails
-- why: High kurtosis and incoherence mean that few values carry the norm: rotations (QuaRot, arXiv 2404.00456) help most here.
-- parameter: top = 50: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask heavy-tails -p top=10 --store scans
SELECT t.model, t.layer, t.role, t.tensor, t.kurtosis, t.absmax / nullif(t.rms, 0) AS incoherence, t.absmax, t.p999_abs
FROM tensors t
WHERE t.part = 'weight' AND t.kurtosis IS NOT NULL AND t.model LIKE $model
ORDER BY t.kurtosis DESC, t.model, t.tensor
LIMIT $top;
