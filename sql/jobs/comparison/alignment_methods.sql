-- alignment_methods: of how many axes that were cut each method found which channels are left, beyond what SQL tells by
-- itself; the method '' is of those of which nobody can tell.
SELECT CASE WHEN is_open THEN '' ELSE method END AS method, count(*) AS axes
FROM surviving_axes($a, $b)
WHERE n_b < n_a AND (is_open OR method NOT IN ('fingerprint', 'position', 'residual'))
GROUP BY ALL
ORDER BY ALL;
