-- title: Power-law exponents of every role and layer
-- why: Martin and Mahoney (WeightWatcher) find well-trained matrices between alpha 2 and 6, hardly trained ones above
--   and over-fitted ones below; exponents of heads rest on few values and say less than those of whole matrices, and
--   circuits, which nobody trains as such, are left out.
-- parameter: low = 2.0: alpha below this counts as under
-- parameter: high = 6.0: alpha above this counts as over
-- parameter: role = %: LIKE pattern of roles
-- parameter: top = 1000: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask training-quality -p role=down_proj --store scans
WITH fitted AS (
    SELECT f.model, m.component, f.role, f.layer, if(f.head IS NULL, 'matrix', 'heads') AS scope,
           f.alpha, f.ks_distance
    FROM spectrum_fits f LEFT JOIN matrices m ON m.model = f.model AND m.matrix = f.matrix
    WHERE f.alpha IS NOT NULL AND coalesce(m.kind, '') NOT IN ('circuit', 'delta')
      AND f.model LIKE $model AND f.role LIKE $role
)
SELECT model, component, role, layer, scope, count(*) AS spectra,
       median(alpha) AS alpha, min(alpha) AS min_alpha, max(alpha) AS max_alpha, median(ks_distance) AS ks_distance,
       count(*) FILTER (alpha < $low) AS under,
       count(*) FILTER (alpha > $high) AS over
FROM fitted
GROUP BY model, component, role, layer, scope
ORDER BY (under + over) / spectra DESC, model, component, role, layer NULLS FIRST, scope
LIMIT $top;
