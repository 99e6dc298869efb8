-- weights: the weights that two models both have, by the id of each in a and in b.
SELECT weight_a, weight_b
FROM weight_pairs($a, $b)
WHERE weight_a IS NOT NULL AND weight_b IS NOT NULL
ORDER BY component, layer, role, expert, part, weight_b;
