-- grown: the axes along which b's weights are longer, and how many channels of both are found to be equal; layers, and
-- experts, that have the same figures are one row.
SELECT role, axis, n_a, n_b, found, count(*) AS weights
FROM surviving_axes($a, $b)
WHERE n_b > n_a
GROUP BY ALL
ORDER BY weights DESC, role, axis, n_a, n_b, found;
