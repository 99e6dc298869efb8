-- modules: what became of a model in another, one row a module; the rows that `shardscan diff` prints.
SELECT * EXCLUDE (model_a, model_b)
FROM model_diff($a, $b)
ORDER BY component, retention, role;
