-- title: Retention of every module, and whether all layers agree
-- why: A module that kept another share in one layer than in the next is a pruning that did not do what it was told.
-- parameter: a = %: the original, by name or LIKE pattern; of several the one of most parameters
-- parameter: b = %: the pruned one; of several the one of fewest parameters
-- example: shardscan ask pruning-modules -p a=Llama-3-8B -p b=pruned -o modules.csv
SELECT model_a, model_b, component, role, layers, touched_layers, removed_layers, added_layers,
       parameters_a, parameters_b, retention,
       CASE WHEN layers = 0 THEN 'added' WHEN layers = removed_layers THEN 'removed'
            WHEN consistent IS NULL THEN 'untouched'
            WHEN consistent THEN format('consistent: {:.4f} in {} of {} layers', min_retention, touched_layers, layers)
            ELSE format('INCONSISTENT: {:.4f} to {:.4f} in {} of {} layers',
                        min_retention, max_retention, touched_layers, layers) END AS consistency
FROM pruning_modules(original_model($a), pruned_model($b))
ORDER BY consistent NULLS LAST, retention, component, role;
