-- title: Singular values beyond the edge of random noise, by role
-- why: What training wrote stands above the Marchenko–Pastur edge that random weights would keep to; few spikes far
--   above it suit a low-rank adapter, none at all looks untrained, and nearly all means that there is no random bulk.
-- parameter: role = %: LIKE pattern of roles
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask spikes -p role=up_proj --store scans
WITH counted AS (
    SELECT f.model, m.component, f.role, f.layer, f.head, f.spectrum, f.mp_spikes, f.mp_soft_rank,
           f.mp_spikes / s.rank AS share, if(f.head IS NULL, 'matrix', 'heads') AS scope
    FROM spectrum_fits f
    JOIN spectra s ON s.model = f.model AND s.spectrum = f.spectrum
    LEFT JOIN matrices m ON m.model = f.model AND m.matrix = f.matrix
    WHERE f.mp_spikes IS NOT NULL AND f.model LIKE $model AND f.role LIKE $role
)
SELECT model, component, role, scope, count(*) AS spectra,
       count(*) FILTER (mp_spikes = 0) AS without,
       median(mp_spikes) AS spikes, median(share) AS share, median(mp_soft_rank) AS soft_rank,
       max(mp_spikes) AS most,
       arg_max_null(layer, (mp_spikes, spectrum)) AS most_layer,
       arg_max_null(head, (mp_spikes, spectrum)) AS most_head
FROM counted
GROUP BY model, component, role, scope
ORDER BY share DESC, model, component, role, scope;
