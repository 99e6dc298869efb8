-- altered_axes: the axes along which b's weights are longer, and those that have a's channels in another order, with
-- how many channels of both are equal; layers, and experts, that have the same figures are one row.
SELECT role, axis, n_a, n_b, found, count(*) AS weights
FROM surviving_axes($a, $b)
WHERE n_b > n_a OR n_b = n_a AND found = n_a AND channels IS NOT NULL
GROUP BY ALL
ORDER BY weights DESC, role, axis, n_a, n_b, found;
