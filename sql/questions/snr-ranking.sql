-- title: The layers of every role with the highest signal-to-noise ratio
-- why: Spectrum (arXiv 2406.06623) trains only these layers and freezes the others; place 1 is the highest of its role,
--   an expert's rivals are the same expert of other layers, and heads are ranked among heads.
-- parameter: percent = 50.0: share of the layers of a role to take, rounded down
-- parameter: role = %: LIKE pattern of roles
-- parameter: top = 1000: rows of the answer
-- parameter: model = %: LIKE pattern of model names
-- example: shardscan ask snr-ranking -p percent=25 --store scans
WITH ranked AS (
    SELECT f.model, m.component, f.role, m.expert, f.layer, f.head, f.snr, f.spectrum,
           row_number() OVER (PARTITION BY f.model, m.component, f.role, m.expert, f.head IS NULL
                              ORDER BY f.snr DESC, f.spectrum) AS place,
           count(*) OVER (PARTITION BY f.model, m.component, f.role, m.expert, f.head IS NULL) AS of
    FROM spectrum_fits f LEFT JOIN matrices m ON m.model = f.model AND m.matrix = f.matrix
    WHERE f.snr IS NOT NULL AND f.model LIKE $model AND f.role LIKE $role
)
SELECT model, component, role, expert, place, of, layer, head, snr, spectrum
FROM ranked
WHERE place <= floor(of * $percent / 100)
ORDER BY model, component, role, expert NULLS FIRST, head IS NOT NULL, place
LIMIT $top;
